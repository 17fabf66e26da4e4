//! Compacts and defragments the store while others write to it, until it dies.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use urd::{error::Code, random::Random};
use urd_client::{
    Client, Error,
    etcdserverpb::{CompactionRequest, DefragmentRequest},
};

#[derive(Debug)]
pub struct Keeper {
    random: Random,
    /// What the store is known to be compacted to; -1: never.
    pub acknowledged: i64,
    /// What it asked for last and was not told of.
    pub unheard: Option<i64>,
    from: i64,
    to: i64,
    pub compactions: usize,
    /// Defragmentations it was told of.
    pub defragments: Arc<AtomicUsize>,
}

impl Keeper {
    /// Of a store that is `compacted` to a revision; goes on to `to` and not beyond.
    pub fn new(compacted: i64, to: i64, seed: u64) -> Self {
        let random = Random(seed);
        Keeper {
            random,
            acknowledged: compacted,
            unheard: None,
            from: compacted.max(1),
            to,
            compactions: 0,
            defragments: Arc::default(),
        }
    }

    pub async fn run(&mut self, client: &Client) {
        loop {
            if self.from < self.to {
                // A part of what is left, so that there are several.
                let revision = self.from + 1 + self.random.below((self.to - self.from) as u64) as i64;
                self.unheard = Some(revision);
                let request = CompactionRequest { revision, physical: self.random.below(2) == 0 };
                if !heard(client.call(&request).await) {
                    return;
                }
                (self.acknowledged, self.from, self.unheard) = (revision, revision, None);
                self.compactions += 1;
            }
            if !heard(client.call(&DefragmentRequest {}).await) {
                return;
            }
            self.defragments.fetch_add(1, Relaxed);
        }
    }
}

/// False once the server is gone.
fn heard<T>(result: Result<T, Error>) -> bool {
    match result {
        Ok(_) => true,
        Err(Error::Transport(_)) => false,
        Err(error) if matches!(error.code(), Some(Code::Unavailable | Code::Canceled)) => false,
        Err(error) => panic!("refused: {error}"),
    }
}
