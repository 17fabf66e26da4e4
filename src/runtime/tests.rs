use std::{rc::Rc, time::Duration};

use super::{executors::run_one, *};
use crate::limits;

#[test]
fn a_task_gives_its_result_and_ends_when_dropped() {
    run_one(|| async {
        let alive = Rc::new(());
        let held = alive.clone();
        assert_eq!(spawn_with_handle(async { 7 }).await, 7);
        let task = spawn_with_handle(async move {
            std::future::pending::<()>().await;
            drop(held);
        });
        yield_now().await;
        assert_eq!(Rc::strong_count(&alive), 2);
        drop(task);
        yield_now().await;
        assert_eq!(Rc::strong_count(&alive), 1);
    })
    .unwrap();
}

#[test]
fn the_executor_goes_on_while_something_blocks() {
    run_one(|| async {
        let (go, wait) = std::sync::mpsc::channel();
        let task = spawn_with_handle(background(move || {
            wait.recv().unwrap();
            std::thread::current().id()
        }));
        yield_now().await;
        // Only this executor can release it: that it ends shows that the executor was not held.
        go.send(()).unwrap();
        assert_ne!(task.await, std::thread::current().id());
    })
    .unwrap();
}

fn niceness() -> i32 {
    // SAFETY: touches no memory.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

#[test]
fn blocking_work_goes_behind_the_executor_and_long_work_behind_all() {
    let own = niceness();
    assert_eq!(run_one(|| background(niceness)).unwrap(), limits::BACKGROUND_NICE.max(own));
    assert_eq!(run_one(|| bulk(niceness)).unwrap(), limits::BULK_NICE.max(own));
    assert_eq!(niceness(), own);
}

#[test]
fn what_somebody_waits_for_does_not_wait_for_long_work() {
    run_one(|| async {
        let (go, held) = std::sync::mpsc::channel::<()>();
        let held = std::sync::Arc::new(std::sync::Mutex::new(held));
        let long: Vec<_> = (0..2 * limits::BULK_THREADS)
            .map(|_| {
                let held = held.clone();
                bulk(move || held.lock().unwrap().recv().is_err())
            })
            .collect();
        assert_eq!(background(|| 7).await, 7);
        drop(go);
        for work in long {
            assert!(work.await, "it was held until now");
        }
    })
    .unwrap();
}

#[test]
fn blocking_work_may_use_every_core_of_the_process() {
    let allowed = os::allowed_cores().unwrap();
    let placement = executors::Placement::new(1).unwrap();
    let cores = executors::run(&placement, |_| background(|| os::allowed_cores().unwrap())).unwrap();
    assert_eq!(cores, [allowed]);
}

#[test]
fn a_panic_in_blocking_work_is_raised_where_it_is_awaited_and_the_pool_lives() {
    run_one(|| async {
        for _ in 0..crate::limits::BACKGROUND_THREADS + 1 {
            let work = background(|| -> () { panic!("lost") });
            let raised = futures_util::FutureExt::catch_unwind(AssertUnwindSafe(work)).await;
            assert_eq!(raised.unwrap_err().downcast_ref::<&str>(), Some(&"lost"));
        }
        assert_eq!(background(|| 5).await, 5);
    })
    .unwrap();
}

#[test]
fn a_time_limit_ends_what_takes_longer() {
    run_one(|| async {
        assert_eq!(timeout(Duration::from_secs(60), async { 3 }).await, Some(3));
        assert_eq!(timeout(Duration::from_millis(1), std::future::pending::<()>()).await, None);
    })
    .unwrap();
}

#[test]
fn short_sleeps_end() {
    run_one(|| async {
        for turn in 0..400u64 {
            let begun = now();
            let length = Duration::from_micros(turn % 7 * 90);
            sleep(length).await;
            assert!(begun.elapsed() >= length);
        }
    })
    .unwrap();
}

#[test]
fn a_beat_that_was_missed_is_left_out() {
    run_one(|| async {
        let period = Duration::from_millis(10);
        let mut beat = Interval::new(period);
        let first = beat.tick().await;
        std::thread::sleep(period * 3);
        let late = beat.tick().await;
        let next = beat.tick().await;
        assert!(next >= first + period * 4, "three beats had passed");
        for tick in [late, next] {
            assert!(tick > first);
            assert_eq!((tick - first).as_nanos() % period.as_nanos(), 0, "the beat stays");
        }
    })
    .unwrap();
}
