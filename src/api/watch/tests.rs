use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::AtomicBool},
    task::{Wake, Waker},
};

use super::*;
use crate::{
    config::Config,
    proto::etcdserverpb::{WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchResponse},
    shard::watch::{Settings, world::*},
    wire::head::Head,
};

/// A shard with nothing but watches.
struct Small {
    world: RefCell<World>,
    watches: Watches<Published>,
}

impl Host for Small {
    type Snapshot = Published;

    fn watches(&self) -> &Watches<Published> {
        &self.watches
    }

    fn snapshot(&self) -> Published {
        self.world.borrow().published()
    }

    fn term(&self) -> u64 {
        3
    }

    fn authorize(&self, _: KeyRange<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl Small {
    fn new(cold: u32) -> Rc<Self> {
        let settings = Settings::new(Head::new(7, 8), &Config::default());
        let world = World::new(cold);
        Rc::new(Small { watches: Watches::new(settings, world.revision()), world: RefCell::new(world) })
    }

    /// Makes a change and delivers its events.
    fn change(&self, change: impl FnOnce(&mut World)) {
        let mut world = self.world.borrow_mut();
        change(&mut world);
        let events = Arc::new(world.mail.drain(..).collect());
        let published = world.published();
        drop(world);
        self.watches.deliver(&events, &published, 3);
    }
}

/// Both ends of the wire, as a test holds them.
#[derive(Default)]
struct Wire {
    requests: RefCell<VecDeque<WatchRequest>>,
    half_closed: Cell<bool>,
    sent: RefCell<Vec<Bytes>>,
    stalled: Cell<bool>,
    gone: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

struct End(Rc<Wire>);

impl Inbound for End {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<WatchRequest, Status>>> {
        *self.0.waker.borrow_mut() = Some(context.waker().clone());
        match self.0.requests.borrow_mut().pop_front() {
            Some(request) => Poll::Ready(Some(Ok(request))),
            None if self.0.half_closed.get() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

impl Sink for End {
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        *self.0.waker.borrow_mut() = Some(context.waker().clone());
        match (self.0.gone.get(), self.0.stalled.get()) {
            (true, _) => Poll::Ready(Err(Gone)),
            (_, true) => Poll::Pending,
            _ => Poll::Ready(Ok(())),
        }
    }

    fn send(&mut self, parts: Vec<Bytes>) -> Result<(), Gone> {
        assert!(!self.0.stalled.get(), "sent into a stream that was not ready");
        self.0.sent.borrow_mut().extend(parts);
        Ok(())
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

/// A stream's task, run only when it has been woken: a wake that is missing is an event that is missing.
struct Task {
    wire: Rc<Wire>,
    future: Pin<Box<dyn Future<Output = Result<(), Status>>>>,
    flag: Arc<Flag>,
    ended: Option<Status>,
}

impl Task {
    fn new(host: &Rc<Small>, needs_leader: bool) -> Self {
        let wire = Rc::new(Wire::default());
        let (shard, requests, replies) = (host.clone(), End(wire.clone()), End(wire.clone()));
        let future = Box::pin(async move { run(&*shard, needs_leader, requests, replies).await });
        Task { wire, future, flag: Arc::new(Flag(AtomicBool::new(true))), ended: None }
    }

    fn ask(&self, request: RequestUnion) {
        self.wire.requests.borrow_mut().push_back(WatchRequest { request_union: Some(request) });
        self.wake();
    }

    fn create(&self, create: WatchCreateRequest) {
        self.ask(RequestUnion::CreateRequest(create));
    }

    fn wake(&self) {
        let waker = self.wire.waker.borrow_mut().take();
        waker.into_iter().for_each(Waker::wake);
    }

    fn stall(&self, stalled: bool) {
        self.wire.stalled.set(stalled);
        self.wake();
    }

    fn run(&mut self) {
        let waker = Waker::from(self.flag.clone());
        while self.ended.is_none() && self.flag.0.swap(false, Relaxed) {
            if let Poll::Ready(end) = self.future.as_mut().poll(&mut Context::from_waker(&waker)) {
                self.ended = Some(end.err().unwrap_or(Status::OK));
            }
        }
    }

    fn sent(&mut self) -> Vec<WatchResponse> {
        self.run();
        messages(std::mem::take(&mut *self.wire.sent.borrow_mut()))
    }

    fn events(&mut self) -> usize {
        self.sent().iter().map(|message| message.events.len()).sum()
    }
}

fn all() -> WatchCreateRequest {
    WatchCreateRequest { range_end: vec![0].into(), ..Default::default() }
}

#[test]
fn ten_thousand_watches_in_one_flight() {
    let host = Small::new(0);
    let mut task = Task::new(&host, false);
    for at in 0..10_000 {
        task.create(WatchCreateRequest { key: format!("k{at}").into(), ..Default::default() });
    }
    let ids: Vec<i64> = task.sent().iter().filter(|m| m.created && !m.canceled).map(|m| m.watch_id).collect();
    assert_eq!(ids, (0..10_000).collect::<Vec<_>>());
    host.change(|world| world.put("k777", "v"));
    let sent = task.sent();
    assert_eq!((sent.len(), sent[0].watch_id), (1, 777));
    drop(task);
    assert_eq!(host.watches.with(|table| (table.watch_count(), table.stream_count())), (0, 0));
}

#[test]
fn a_client_that_does_not_read_is_not_read_from() {
    let host = Small::new(0);
    let mut task = Task::new(&host, false);
    task.stall(true);
    for _ in 0..200_000 {
        task.create(all());
    }
    task.run();
    assert!(!task.wire.requests.borrow().is_empty());
    assert!(host.watches.with(|table| table.watch_count()) < 200_000);
    task.stall(false);
    assert_eq!(task.sent().len(), 200_000);
}

#[test]
fn a_stalled_stream_catches_up_and_others_do_not_wait_for_it() {
    let host = Small::new(3);
    let (mut slow, mut fast) = (Task::new(&host, false), Task::new(&host, false));
    for task in [&mut slow, &mut fast] {
        task.create(WatchCreateRequest { prev_kv: true, ..all() });
        task.sent();
    }
    slow.stall(true);
    let mut seen = 0;
    for at in 0..3000 {
        host.change(|world| world.put(&format!("k{}", at % 100), &"v".repeat(200)));
        slow.run();
        seen += fast.events();
    }
    assert_eq!(seen, 3000);
    slow.stall(false);
    let mut revisions: Vec<i64> = Vec::new();
    for message in slow.sent() {
        revisions.extend(message.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision));
    }
    assert_eq!(revisions, (2..3002).collect::<Vec<_>>());
    // And both are live again.
    host.change(|world| world.put("k", "v"));
    assert_eq!((slow.events(), fast.events()), (1, 1));
}

#[test]
fn values_that_are_not_in_memory_are_read() {
    let host = Small::new(1);
    host.change(|world| {
        world.put("a", "one");
        world.put("a", "two");
    });
    let mut task = Task::new(&host, false);
    task.create(WatchCreateRequest { start_revision: 2, prev_kv: true, ..all() });
    let sent = task.sent();
    let events = &sent[1].events;
    assert_eq!(&events[0].kv.as_ref().unwrap().value[..], b"one");
    assert_eq!(&events[1].kv.as_ref().unwrap().value[..], b"two");
    assert_eq!(&events[1].prev_kv.as_ref().unwrap().value[..], b"one");
    // Live, the value is at hand but not what was there before.
    host.change(|world| world.put("a", "three"));
    let sent = task.sent();
    assert_eq!(&sent[0].events[0].prev_kv.as_ref().unwrap().value[..], b"two");
}

#[test]
fn requests_are_answered_in_their_order() {
    let host = Small::new(0);
    let mut task = Task::new(&host, false);
    task.create(all());
    task.ask(RequestUnion::ProgressRequest(WatchProgressRequest {}));
    task.ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 0 }));
    task.wire.requests.borrow_mut().push_back(WatchRequest { request_union: None });
    task.create(all());
    let sent: Vec<_> = task.sent().iter().map(|m| (m.watch_id, m.created, m.canceled)).collect();
    assert_eq!(sent, vec![(0, true, false), (-1, false, false), (0, false, true), (1, true, false)]);
}

#[test]
fn a_client_that_has_closed_its_side_goes_on_being_told() {
    let host = Small::new(0);
    let mut task = Task::new(&host, false);
    task.create(all());
    task.wire.half_closed.set(true);
    assert_eq!(task.sent().len(), 1);
    host.change(|world| world.put("a", "v"));
    assert_eq!(task.events(), 1);
    assert_eq!(task.ended, None);
}

#[test]
fn streams_end_with_the_server_the_connection_or_the_leader() {
    let host = Small::new(0);
    let tick = |now_ms| {
        let now = host.moment();
        host.watches.with(|table| table.tick(now_ms, false, now));
    };
    let mut tasks = [Task::new(&host, true), Task::new(&host, false), Task::new(&host, false)];
    tasks.iter_mut().for_each(Task::run);
    (0..3).for_each(|poll| tick(poll * 1000));
    tasks.iter_mut().for_each(Task::run);
    tasks[1].wire.gone.set(true);
    tasks[1].wake();
    tasks.iter_mut().for_each(Task::run);
    host.watches.with(|table| table.stop());
    tasks.iter_mut().for_each(Task::run);
    let ends = tasks.each_ref().map(|task| task.ended.clone().unwrap());
    assert_eq!(ends, [error::NO_LEADER, error::WATCH_CANCELED, error::STOPPED]);
}

#[test]
fn a_large_turn_is_fanned_out_in_slices() {
    let host = Small::new(0);
    let mut task = Task::new(&host, false);
    for _ in 0..100 {
        task.create(all());
    }
    task.sent();
    host.change(|world| (0..1000).for_each(|_| world.put("a", "")));
    let delivered = host.watches.with(|table| table.revision());
    assert!((2..1001).contains(&delivered), "one slice at once: {delivered}");
    let driver = host.clone();
    let mut drive = Box::pin(async move { driver.watches.drive(|| 3).await });
    let waker = Waker::noop();
    let mut polls = 0;
    while host.watches.with(|table| table.revision()) < 1001 {
        assert!(drive.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
        polls += 1;
    }
    assert!(polls > 3);
    assert_eq!(task.events(), 100 * 1000);
}

#[test]
fn a_stream_and_its_task_are_small() {
    let host = Small::new(0);
    let wire = Rc::new(Wire::default());
    let future = run(&*host, false, End(wire.clone()), End(wire));
    assert!(size_of_val(&future) <= 512, "{}", size_of_val(&future));
}
