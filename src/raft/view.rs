//! The published state: the newest applied root with the table of segments its places point into. One value,
//! swapped atomically before any caller of its batch is answered, so that no read through any shard goes back in time.

use std::sync::Arc;

use arc_swap::ArcSwap;

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
pub struct Published(Arc<ArcSwap<View>>);

impl Published {
    pub fn new(view: View) -> Self {
        Published(Arc::new(ArcSwap::from_pointee(view)))
    }

    pub fn load(&self) -> Arc<View> {
        self.0.load_full()
    }

    /// Looks at the newest view without keeping it.
    #[inline]
    pub fn look<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.0.load())
    }

    pub fn publish(&self, view: Arc<View>) {
        self.0.store(view);
    }
}
