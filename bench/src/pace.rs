//! When the calls of an open loop are due, and a clock precise enough to keep to it. A call that leaves late, because the
//! server or the driver was slow, is still timed from when it was due: that is the correction of coordinated omission
//! (G. Tene, "How not to measure latency"). Nothing here sends anything.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use tokio::io::unix::AsyncFd;

/// Equal steps from a start.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    pub start: Instant,
    pub per_second: f64,
}

impl Schedule {
    /// When call `number`, from 0, is due.
    pub fn due(&self, number: u64) -> Instant {
        self.start + Duration::from_secs_f64(number as f64 / self.per_second)
    }
}

/// A timer of the kernel's high resolution: tokio's own counts milliseconds, which would be the latency at 2,000 calls a
/// second.
pub struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    /// # Errors
    /// The kernel's, if it has no descriptor left. Needs tokio's reactor around it.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointer; the descriptor that comes back is checked and nobody else's.
        let fd = unsafe {
            let fd = libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        // SAFETY: an owned descriptor gives the same number as long as it lives, and stays open as long.
        unsafe { AsyncFd::register(fd) }.map(Alarm).map_err(io::Error::from)
    }

    /// Returns at once if the moment has passed.
    pub async fn until(&mut self, moment: Instant) -> io::Result<()> {
        let wait = moment.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            return Ok(());
        }
        let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let once = libc::itimerspec {
            it_interval: never,
            it_value: libc::timespec { tv_sec: wait.as_secs() as _, tv_nsec: wait.subsec_nanos().into() },
        };
        // SAFETY: `once` outlives the call; the old value is not asked for.
        if unsafe { libc::timerfd_settime(self.0.as_raw_fd(), 0, &once, std::ptr::null_mut()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        loop {
            let mut ready = self.0.readable().await?;
            let mut expirations = 0u64;
            // SAFETY: eight bytes are what a timer gives and what there is room for.
            let read = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut expirations).cast(), size_of::<u64>()) };
            if read > 0 {
                return Ok(());
            }
            match io::Error::last_os_error() {
                cause if cause.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                cause => return Err(cause),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Latency;

    #[test]
    fn calls_are_due_at_equal_steps_without_drift() {
        let start = Instant::now();
        let schedule = Schedule { start, per_second: 3_000.0 };
        assert_eq!(schedule.due(0), start);
        let hour = schedule.due(3_000 * 3_600) - start;
        assert!(hour.abs_diff(Duration::from_secs(3_600)) < Duration::from_micros(1), "{hour:?}");
    }

    /// A server that answers within a millisecond, but stands still for a second after the first: a closed loop would
    /// have one slow call in 2,000, and say that p99 is 1 ms. Those that were due meanwhile waited too.
    #[test]
    fn a_stall_counts_for_all_who_were_due_meanwhile() {
        let schedule = Schedule { start: Instant::now(), per_second: 1_000.0 };
        let stall_ends = schedule.start + Duration::from_secs(1);
        let mut latency = Latency::default();
        for number in 0..2_000 {
            let due = schedule.due(number);
            let done = due.max(stall_ends) + Duration::from_millis(1);
            latency.record(done - due);
        }
        // Of 2,000 the first 1,000 waited for 1 s down to 1 ms.
        let near = |quantile: f64, ms: f64| (latency.at_ms(quantile).unwrap() - ms).abs() < ms * 0.01;
        assert!(near(0.99, 981.0) && near(0.75, 501.0) && near(0.45, 1.0), "{latency:?}");
    }

    #[test]
    fn the_alarm_does_not_ring_before_its_time() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut alarm = Alarm::new().unwrap();
            for wait in [0, 300, 1_700] {
                let moment = Instant::now() + Duration::from_micros(wait);
                alarm.until(moment).await.unwrap();
                assert!(Instant::now() >= moment);
            }
            alarm.until(Instant::now() - Duration::from_secs(1)).await.unwrap();
        });
    }
}
