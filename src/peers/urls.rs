//! A member's URLs: the one that is called, and the next one when nobody answers there. (etcd: rafthttp/urlpick.go.)

pub(super) struct Urls {
    all: Vec<String>,
    picked: usize,
}

impl Urls {
    pub fn new(all: Vec<String>) -> Self {
        Urls { all, picked: 0 }
    }

    pub fn all(&self) -> &[String] {
        &self.all
    }

    /// None: it has none.
    pub fn pick(&self) -> Option<String> {
        self.all.get(self.picked).cloned()
    }

    pub fn unreachable(&mut self, url: &str) {
        if self.all.get(self.picked).is_some_and(|picked| picked == url) {
            self.picked = (self.picked + 1) % self.all.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_is_picked_once() {
        let mut urls = Urls::new(vec!["a".into(), "b".into()]);
        assert_eq!(urls.pick().unwrap(), "a");
        urls.unreachable("a");
        // By another who has called there at the same time.
        urls.unreachable("a");
        assert_eq!(urls.pick().unwrap(), "b");
        urls.unreachable("b");
        assert_eq!(urls.pick().unwrap(), "a");
        assert_eq!(Urls::new(Vec::new()).pick(), None);
    }
}
