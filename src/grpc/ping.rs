//! Who pings too often is sent away. The rule is grpc-go's keepalive enforcement, without a clock of its own: the
//! connection tells it of each ping.
//! (grpc-go: internal/transport/http2_server.go, handlePing; gRPC proposal A8.)

use std::time::{Duration, Instant};

/// Strikes that are borne; one more and the connection ends.
const STRIKES_MAX: u8 = 2;

/// Shortest time between pings on a connection without calls.
const IDLE_TIME: Duration = Duration::from_secs(2 * 60 * 60);

/// What the rule falls back to when no shortest time is set.
const DEFAULT_TIME: Duration = Duration::from_secs(5 * 60);

/// The pings of one connection.
pub(super) struct Pings {
    min_time: Duration,
    last: Option<Instant>,
    strikes: u8,
}

impl Pings {
    /// `min_time` is the shortest time between pings while calls are running.
    pub fn new(min_time: Duration) -> Self {
        let min_time = if min_time.is_zero() { DEFAULT_TIME } else { min_time };
        Pings { min_time, last: None, strikes: 0 }
    }

    /// A ping has come at `now`, while calls were running or not, `replied`: something has been sent on a stream
    /// since the last ping, which forgives all strikes. True: that was one too many.
    pub fn received(&mut self, now: Instant, calls: bool, replied: bool) -> bool {
        let last = self.last.replace(now);
        if replied {
            self.strikes = 0;
            return false;
        }
        let min_time = if calls { self.min_time } else { IDLE_TIME };
        if last.is_some_and(|last| last + min_time > now) {
            self.strikes = self.strikes.saturating_add(1);
        }
        self.strikes > STRIKES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What came of pings `apart` from one another.
    fn outcome(apart: Duration, calls: bool, replied: bool) -> Option<usize> {
        let start = Instant::now();
        let mut pings = Pings::new(Duration::from_secs(5));
        (0..10u32).position(|at| pings.received(start + apart * at, calls, replied))
    }

    #[test]
    fn the_fourth_ping_in_haste_ends_the_connection() {
        assert_eq!(outcome(Duration::from_secs(1), true, false), Some(3));
        assert_eq!(outcome(Duration::from_secs(5), true, false), None);
    }

    #[test]
    fn without_calls_a_ping_is_due_every_two_hours() {
        assert_eq!(outcome(Duration::from_secs(60), false, false), Some(3));
        assert_eq!(outcome(IDLE_TIME, false, false), None);
    }

    #[test]
    fn an_answer_in_between_forgives_all() {
        assert_eq!(outcome(Duration::from_millis(1), true, true), None);
    }
}
