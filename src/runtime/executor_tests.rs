use std::{
    cell::RefCell,
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

use futures_util::{future::join_all, task::AtomicWaker};

use super::*;
use crate::runtime::{
    Task, background,
    executors::{self, Placement, run_one},
    mesh::Mesh,
    poller::Registered,
    sleep, spawn, spawn_with_handle, timeout, yield_now,
};

/// What arrives on a socket of this executor, one byte at a time.
async fn receive(socket: UnixStream) -> u8 {
    socket.set_nonblocking(true).unwrap();
    let registered = Registered::new(socket.try_clone().unwrap().into()).unwrap();
    let mut byte = [0];
    std::future::poll_fn(|context| registered.poll_read(context, |_| (&socket).read(&mut byte), |_| false))
        .await
        .unwrap();
    byte[0]
}

#[test]
fn tasks_have_their_turns_in_the_order_in_which_they_were_woken() {
    run_one(|| async {
        let order = Rc::new(RefCell::new(Vec::new()));
        for number in 0..3 {
            let order = order.clone();
            spawn(async move {
                for round in 0..3 {
                    order.borrow_mut().push((round, number));
                    yield_now().await;
                }
            });
        }
        for _ in 0..4 {
            yield_now().await;
        }
        let expected: Vec<_> = (0..3).flat_map(|round| (0..3).map(move |number| (round, number))).collect();
        assert_eq!(*order.borrow(), expected);
    })
    .unwrap();
}

/// Who yields without end lets through what the kernel has: else this would not end.
#[test]
fn who_yields_lets_the_kernel_through() {
    run_one(|| async {
        let (near, mut far) = UnixStream::pair().unwrap();
        let received = Rc::new(Cell::new(0));
        let told = received.clone();
        spawn(async move { told.set(receive(near).await) });
        yield_now().await;
        far.write_all(&[7]).unwrap();
        while received.get() == 0 {
            yield_now().await;
        }
        assert_eq!(received.get(), 7);
        // And timers, and other threads.
        let task = spawn_with_handle(sleep(Duration::from_millis(1)));
        while !task.is_over() {
            yield_now().await;
        }
        let task = spawn_with_handle(background(|| ()));
        while !task.is_over() {
            yield_now().await;
        }
    })
    .unwrap();
}

/// Nor do two tasks that wake each other for ever, without a thought for anybody else.
#[test]
fn who_is_woken_without_end_does_not_keep_the_kernel_waiting() {
    run_one(|| async {
        spawn(std::future::poll_fn(|context| {
            context.waker().wake_by_ref();
            Poll::Pending
        }));
        let (near, mut far) = UnixStream::pair().unwrap();
        let task = spawn_with_handle(receive(near));
        sleep(Duration::from_millis(1)).await;
        background(move || far.write_all(&[9]).unwrap()).await;
        assert_eq!(task.await, 9);
    })
    .unwrap();
}

#[test]
fn a_task_can_end_itself() {
    run_one(|| async {
        let held = Rc::new(());
        let (own, alive) = (Rc::new(Cell::new(None::<Task<()>>)), held.clone());
        let handle = own.clone();
        own.set(Some(spawn_with_handle(async move {
            let _alive = alive;
            drop(handle.take());
            std::future::pending().await
        })));
        yield_now().await;
        assert_eq!(Rc::strong_count(&held), 1);
    })
    .unwrap();
}

/// A waker that is kept beyond the task's end is for nobody, although its place has been given to another one.
#[test]
fn a_waker_that_was_kept_wakes_no_other_task() {
    run_one(|| async {
        let kept = Rc::new(RefCell::new(Vec::<Waker>::new()));
        for _ in 0..3 {
            let keep = kept.clone();
            spawn_with_handle(std::future::poll_fn(move |context| {
                keep.borrow_mut().push(context.waker().clone());
                Poll::Ready(())
            }))
            .await;
            yield_now().await;
        }
        let polls = Rc::new(Cell::new(0));
        let tasks: Vec<_> = (0..5)
            .map(|_| {
                let polls = polls.clone();
                spawn_with_handle(std::future::poll_fn(move |_| -> Poll<()> {
                    polls.set(polls.get() + 1);
                    Poll::Pending
                }))
            })
            .collect();
        yield_now().await;
        assert_eq!(polls.get(), 5);
        kept.take().into_iter().for_each(Waker::wake);
        yield_now().await;
        assert_eq!(polls.get(), 5);
        drop(tasks);
    })
    .unwrap();
}

/// Dropping the handle of a task that waits for its turn ends it before that, and its place is good for others.
#[test]
fn a_task_that_is_ended_while_it_is_queued_does_not_run() {
    run_one(|| async {
        let ran = Rc::new(Cell::new(0));
        for _ in 0..100 {
            let (one, other) = (ran.clone(), ran.clone());
            drop(spawn_with_handle(async move { one.set(one.get() + 1000) }));
            spawn(async move { other.set(other.get() + 1) });
        }
        yield_now().await;
        assert_eq!(ran.get(), 100);
    })
    .unwrap();
}

struct SpawnsWhenDropped(Rc<()>);

impl Drop for SpawnsWhenDropped {
    fn drop(&mut self) {
        let held = self.0.clone();
        spawn(async move {
            let _held = held;
            std::future::pending().await
        });
    }
}

#[test]
fn what_is_left_ends_with_the_executor() {
    let held = Rc::new(());
    crate::runtime::run(async {
        let last = SpawnsWhenDropped(held.clone());
        spawn(async move {
            let _last = last;
            std::future::pending().await
        });
        yield_now().await;
        assert_eq!(Rc::strong_count(&held), 2);
    });
    assert_eq!(Rc::strong_count(&held), 1);
}

/// An executor that sleeps each time, woken by threads that have no ring. A wake-up that is lost hangs this test.
#[test]
fn no_wake_up_of_another_thread_is_lost() {
    const ROUNDS: u64 = 20_000;
    const THREADS: usize = 3;
    run_one(|| async {
        let threads = (0..THREADS).map(|_| {
            let shared = Arc::new((AtomicU64::new(0), AtomicWaker::new()));
            let (ask, asked) = mpsc::channel::<u64>();
            let theirs = shared.clone();
            std::thread::spawn(move || {
                for round in asked {
                    theirs.0.store(round, Ordering::Release);
                    theirs.1.wake();
                }
            });
            spawn_with_handle(async move {
                for round in 1..=ROUNDS {
                    ask.send(round).unwrap();
                    std::future::poll_fn(|context| {
                        shared.1.register(context.waker());
                        if shared.0.load(Ordering::Acquire) == round { Poll::Ready(()) } else { Poll::Pending }
                    })
                    .await;
                }
            })
        });
        join_all(threads.collect::<Vec<_>>()).await;
    })
    .unwrap();
}

/// Many tasks at once, each woken many times by many threads.
#[test]
fn many_are_woken_by_many() {
    const TASKS: usize = 200;
    const WAKES: u64 = 500;
    run_one(|| async {
        let wakers = Arc::new((0..TASKS).map(|_| (AtomicU64::new(0), AtomicWaker::new())).collect::<Vec<_>>());
        let tasks = (0..TASKS).map(|number| {
            let wakers = wakers.clone();
            spawn_with_handle(std::future::poll_fn(move |context| {
                wakers[number].1.register(context.waker());
                if wakers[number].0.load(Ordering::Acquire) == 2 * WAKES { Poll::Ready(()) } else { Poll::Pending }
            }))
        });
        let tasks: Vec<_> = tasks.collect();
        yield_now().await;
        for _ in 0..2 {
            let wakers = wakers.clone();
            std::thread::spawn(move || {
                for (count, waker) in (0..WAKES).flat_map(|_| wakers.iter()) {
                    count.fetch_add(1, Ordering::AcqRel);
                    waker.wake();
                }
            });
        }
        join_all(tasks).await;
    })
    .unwrap();
}

#[test]
fn no_wake_up_of_another_executor_is_lost() {
    const ROUNDS: u64 = 10_000;
    let mesh = Mesh::<u64>::new(2);
    executors::run(&Placement::new(2).unwrap(), move |id| {
        let mesh = mesh.clone();
        async move {
            let port = mesh.join(id).await;
            if id == 0 {
                port.send(1, 0);
            }
            loop {
                let (from, number) = port.recv().await;
                if number < ROUNDS {
                    port.send(from, number + 1);
                }
                if number + 1 >= ROUNDS {
                    break;
                }
            }
        }
    })
    .unwrap();
}

#[test]
fn sleeps_end_in_the_order_of_their_ends() {
    run_one(|| async {
        let ended = Rc::new(RefCell::new(Vec::new()));
        let sleeps = [9u64, 3, 7, 1, 5].map(|length| {
            let ended = ended.clone();
            spawn_with_handle(async move {
                sleep(Duration::from_millis(length)).await;
                ended.borrow_mut().push(length);
            })
        });
        // All of them are due at once where this one is late: the order is told all the same.
        std::thread::sleep(Duration::from_millis(2));
        join_all(sleeps).await;
        assert_eq!(*ended.borrow(), [1, 3, 5, 7, 9]);
    })
    .unwrap();
}

#[test]
fn a_sleep_that_is_dropped_leaves_nothing_behind() {
    run_one(|| async {
        let timers = || here().timers.borrow().len();
        assert_eq!(timers(), 0);
        let tasks: Vec<_> =
            (0..10_000u64).map(|length| spawn_with_handle(sleep(Duration::from_secs(60 + length % 97)))).collect();
        yield_now().await;
        assert_eq!(timers(), 10_000);
        drop(tasks);
        assert_eq!(timers(), 0);
        // One that has been due, but was not looked at.
        let mut due = Box::pin(sleep(Duration::from_millis(1)));
        assert!(futures_util::FutureExt::now_or_never(&mut due).is_none());
        sleep(Duration::from_millis(5)).await;
        assert_eq!(timers(), 1, "it is over, and still there");
        drop(due);
        assert_eq!(timers(), 0);
    })
    .unwrap();
}

#[test]
fn many_sleep_at_once() {
    run_one(|| async {
        let begun = now();
        let tasks: Vec<_> = (0..5_000u64)
            .map(|number| {
                spawn_with_handle(async move {
                    let length = Duration::from_micros(number * 7919 % 20_000);
                    sleep(length).await;
                    assert!(begun.elapsed() >= length);
                })
            })
            .collect();
        join_all(tasks).await;
    })
    .unwrap();
}

#[test]
fn time_limits_within_time_limits() {
    let (short, long) = (Duration::from_millis(2), Duration::from_secs(60));
    run_one(move || async move {
        let never = std::future::pending::<()>;
        assert_eq!(timeout(long, timeout(short, never())).await, Some(None));
        assert_eq!(timeout(short, timeout(long, never())).await, None);
        assert_eq!(timeout(long, timeout(long, async { 3 })).await, Some(Some(3)));
        assert_eq!(timeout(long, timeout(short, timeout(long, never()))).await, Some(None));
        assert_eq!(here().timers.borrow().len(), 0);
    })
    .unwrap();
}

/// Whoever wants so, dozens of connections beyond what the ring holds are served.
#[test]
fn a_small_ring_serves_many() {
    let ring = Ring::new(2, 4).unwrap();
    let executor = Executor::with_ring(ring, Duration::ZERO, &crate::runtime::os::allowed_cores().unwrap()).unwrap();
    executor.run(async {
        let (near, far): (Vec<_>, Vec<_>) = (0..100).map(|_| UnixStream::pair().unwrap()).unzip();
        let tasks: Vec<_> = near.into_iter().map(|socket| spawn_with_handle(receive(socket))).collect();
        yield_now().await;
        for (number, mut socket) in far.into_iter().enumerate() {
            socket.write_all(&[number as u8]).unwrap();
        }
        assert!(join_all(tasks).await.into_iter().eq(0..100));
    });
}

#[test]
fn a_panic_leaves_what_is_under_way_to_the_kernel() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let raised = std::panic::catch_unwind(|| {
        run_one(move || async move {
            let file = Rc::new(reader.into());
            let transfer = Transfer::Read { offset: 0, len: 16 };
            let operation = FileOperation::begin(transfer, &file, Memory::Bytes(Vec::with_capacity(16)));
            spawn(async move { drop(operation.await) });
            sleep(Duration::from_millis(1)).await;
            spawn(async { panic!("a task is lost") });
            std::future::pending::<()>().await;
        })
    });
    assert_eq!(raised.expect_err("a panic comes through").downcast_ref::<&str>(), Some(&"a task is lost"));
    // The reader may be gone by now, or not yet.
    let _ = writer.write_all(b"late");
}

#[test]
fn sleep_is_not_work() {
    run_one(|| async {
        worked();
        let length = Duration::from_millis(30);
        sleep(length).await;
        let (slept, turns) = worked();
        assert!(slept < length, "{slept:?}");
        assert!(turns > 0);
        std::thread::sleep(length);
        assert!(worked().0 >= length, "what keeps the executor is work");
    })
    .unwrap();
}

#[test]
fn an_executor_may_look_for_work_before_it_sleeps() {
    let mut placement = Placement::new(1).unwrap();
    placement.spin_before_park = Duration::from_millis(1);
    executors::run(&placement, |_| async {
        for _ in 0..20 {
            background(|| ()).await;
            sleep(Duration::from_micros(100)).await;
        }
    })
    .unwrap();
}

/// Work that is queued before somebody waits for it is done.
#[test]
fn work_in_the_background_does_not_wait_to_be_awaited() {
    run_one(|| async {
        let done = Arc::new(Mutex::new(()));
        let (tell, told) = mpsc::channel();
        let work = background({
            let done = done.clone();
            move || {
                let _done = done.lock().unwrap();
                tell.send(()).unwrap();
                5
            }
        });
        told.recv().unwrap();
        drop(done.lock().unwrap());
        assert_eq!(work.await, 5);
    })
    .unwrap();
}
