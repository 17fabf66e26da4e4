//! The published state: the newest applied root with the table of segments its places point into. One value,
//! swapped atomically before any caller of its batch is answered, so that no read through any shard goes back in time.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::{store::state::State, wal::table::SegmentTable};

/// An immutable state of the store and the means to read its values. Holding one pins the segments it points into.
#[derive(Clone, Debug)]
pub struct View {
    pub state: State,
    pub segments: SegmentTable,
}

impl View {
    pub fn revision(&self) -> i64 {
        self.state.index.current()
    }
}

/// Where the newest view is found, from any core.
#[derive(Clone)]
pub struct Published(Arc<ArcSwapOption<View>>);

impl Published {
    pub fn new(view: View) -> Self {
        Published(Arc::new(ArcSwapOption::from_pointee(view)))
    }

    pub fn load(&self) -> Arc<View> {
        self.0.load_full().expect(THERE)
    }

    /// Looks at the newest view without keeping it.
    #[inline]
    pub fn look<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(self.0.load().as_ref().expect(THERE))
    }

    pub fn publish(&self, view: Arc<View>) {
        self.0.store(Some(view));
    }

    /// There is no view until the next is published: nobody may look. Where everybody who looks is on the thread that
    /// publishes, so that nobody can, the state need not be copied to be changed unless somebody holds it still.
    pub fn withdraw(&self) {
        self.0.store(None);
    }
}

const THERE: &str = "who publishes is the only one to run while there is no view";
