//! One behaviour of etcd each, as observed of the reference.

use super::*;
use crate::{error, proto::etcdserverpb::WatchResponse};

fn bench() -> Bench {
    Bench::new(0, Settings { bounds: Bounds::default(), fragment_bytes: 2 << 20, ..settings() })
}

fn on(key: &str, end: &str) -> WatchCreateRequest {
    WatchCreateRequest { key: key.to_owned().into(), range_end: end.to_owned().into(), ..Default::default() }
}

fn from(start_revision: i64, request: WatchCreateRequest) -> WatchCreateRequest {
    WatchCreateRequest { start_revision, ..request }
}

impl Bench {
    fn sent(&mut self, stream: u8) -> Vec<WatchResponse> {
        let id = self.stream(stream).id;
        messages(self.table.take(id))
    }

    /// Id, whether created, whether canceled, reason; of each message.
    fn answers(&mut self, stream: u8) -> Vec<(i64, bool, bool, String)> {
        self.sent(stream).into_iter().map(|m| (m.watch_id, m.created, m.canceled, m.cancel_reason)).collect()
    }

    fn tick(&mut self, now_ms: u64, has_leader: bool) {
        let now = self.now();
        self.table.tick(now_ms, has_leader, now);
    }
}

/// Id, header's revision and events' revisions of each message.
fn told(messages: &[WatchResponse]) -> Vec<(i64, i64, Vec<i64>)> {
    let events = |m: &WatchResponse| m.events.iter().map(|e| e.kv.as_ref().unwrap().mod_revision).collect();
    messages.iter().map(|m| (m.watch_id, m.header.as_ref().unwrap().revision, events(m))).collect()
}

#[test]
fn ids_are_given_as_etcd_gives_them() {
    let mut bench = bench();
    let chosen = |watch_id| WatchCreateRequest { watch_id, ..on("a", "") };
    for request in [chosen(-7), chosen(1), chosen(0), chosen(0), on("b", "b"), from(-5, on("", "\0"))] {
        bench.create(0, request);
    }
    let ok = |id| (id, true, false, String::new());
    let refused = |reason: &str| (-1, true, true, reason.to_owned());
    let wanted = vec![
        ok(-7),
        ok(1),
        ok(0),
        ok(2),
        refused("mvcc: watcher range is empty"),
        refused("etcdserver: mvcc: required revision has been compacted"),
    ];
    assert_eq!(bench.answers(0), wanted);
    // A cancelled id is not given again, but may be chosen.
    bench.cancel(0, 0);
    bench.cancel(0, 77);
    for request in [chosen(0), chosen(1), chosen(2)] {
        bench.create(0, request);
    }
    bench.cancel(0, 2);
    bench.create(0, chosen(2));
    let duplicate = || refused("mvcc: duplicate watch ID provided on the WatchStream");
    let canceled = |id| (id, false, true, String::new());
    assert_eq!(bench.answers(0), vec![canceled(0), ok(3), duplicate(), duplicate(), canceled(2), ok(2)]);
    // -1 is an id like others, and each stream has ids of its own.
    bench.create(1, chosen(-1));
    bench.create(1, chosen(0));
    assert_eq!(bench.answers(1), vec![ok(-1), ok(0)]);
}

#[test]
fn the_header_states_the_events_revision_when_live_and_the_stores_when_catching_up() {
    let mut bench = bench();
    bench.world.put("a", "1");
    bench.world.put("a", "2");
    bench.world.put("b", "1");
    bench.deliver(3);
    bench.create(0, from(2, on("a", "")));
    bench.create(0, on("a", ""));
    assert_eq!(told(&bench.sent(0)), vec![(0, 4, vec![]), (1, 4, vec![])]);
    bench.catch_up(0);
    assert_eq!(told(&bench.sent(0)), vec![(0, 4, vec![2, 3])]);
    bench.world.put("a", "3");
    bench.world.put("a", "4");
    bench.deliver(2);
    let mut live = told(&bench.sent(0));
    live.sort();
    assert_eq!(live, vec![(0, 5, vec![5]), (0, 6, vec![6]), (1, 5, vec![5]), (1, 6, vec![6])]);
}

#[test]
fn an_event_that_the_start_revision_covers_is_not_live_for_the_watch() {
    let mut bench = bench();
    bench.world.put("a", "1");
    // Published, not yet delivered.
    bench.create(0, on("a", ""));
    bench.create(0, from(2, on("a", "")));
    bench.create(0, from(3, on("a", "")));
    bench.catch_up(0);
    bench.world.put("a", "2");
    bench.deliver(2);
    let mut told = told(&bench.sent(0));
    told.sort();
    assert_eq!(
        told,
        vec![
            (0, 2, vec![]),
            (0, 3, vec![3]),
            (1, 2, vec![]),
            (1, 2, vec![2]),
            (1, 3, vec![3]),
            (2, 2, vec![]),
            (2, 3, vec![3])
        ]
    );
}

#[test]
fn a_start_below_the_compacted_revision_is_created_then_canceled() {
    let mut bench = bench();
    for value in ["1", "2", "3"] {
        bench.world.put("a", value);
    }
    bench.world.delete("a");
    bench.deliver(4);
    bench.world.compact(5);
    bench.create(0, from(4, on("a", "")));
    assert!(bench.sent(0)[0].created);
    bench.catch_up(0);
    let sent = bench.sent(0);
    assert_eq!((sent.len(), sent[0].canceled, sent[0].compact_revision), (1, true, 5));
    assert_eq!((sent[0].header.as_ref().unwrap().revision, &*sent[0].cancel_reason), (0, ""));
    // The compacted revision itself is allowed, and the tombstone that is exactly there is told of. (18089, 19179)
    bench.create(0, from(5, on("a", "")));
    bench.catch_up(0);
    assert_eq!(told(&bench.sent(0)), vec![(1, 5, vec![]), (1, 5, vec![5])]);
    // What compaction has ended keeps its id, and the stream without progress, until the client cancels it.
    bench.progress(0);
    assert!(bench.sent(0).is_empty());
    bench.cancel(0, 0);
    bench.progress(0);
    assert_eq!(told(&bench.sent(0)), vec![(0, 5, vec![]), (-1, 5, vec![])]);
}

#[test]
fn compaction_ends_no_watch_that_is_live() {
    let mut bench = bench();
    bench.create(0, on("a", ""));
    for value in ["1", "2", "3"] {
        bench.world.put("b", value);
    }
    bench.deliver(3);
    bench.world.compact(4);
    bench.world.put("a", "1");
    bench.deliver(1);
    assert!(!bench.catch_up(0));
    assert_eq!(told(&bench.sent(0)), vec![(0, 1, vec![]), (0, 5, vec![5])]);
}

#[test]
fn progress_is_told_when_all_are_live_and_after_what_was_published() {
    let mut bench = bench();
    bench.progress(0);
    assert!(bench.sent(0).is_empty(), "nobody to tell");
    bench.create(0, on("a", ""));
    bench.world.put("a", "1");
    bench.sent(0);
    // Asked for after revision 2 was published: not told before its events are. (15220)
    bench.progress(0);
    assert!(bench.sent(0).is_empty());
    bench.deliver(1);
    assert_eq!(told(&bench.sent(0)), vec![(0, 2, vec![2]), (-1, 2, vec![])]);
    bench.create(0, from(1, on("b", "")));
    bench.sent(0);
    bench.progress(0);
    assert!(bench.sent(0).is_empty(), "one is behind");
    bench.catch_up(0);
    bench.progress(0);
    assert_eq!(told(&bench.sent(0)), vec![(-1, 2, vec![])]);
}

#[test]
fn the_future_is_silent_until_it_has_come() {
    let mut bench = bench();
    bench.create(0, WatchCreateRequest { progress_notify: true, ..from(3, on("a", "")) });
    bench.sent(0);
    bench.world.put("a", "too early");
    bench.deliver(1);
    bench.progress(0);
    bench.tick(110, true);
    assert!(bench.sent(0).is_empty(), "20221");
    bench.world.put("z", "");
    bench.deliver(1);
    bench.tick(220, true);
    assert_eq!(told(&bench.sent(0)), vec![(0, 3, vec![])]);
    bench.world.put("a", "");
    bench.deliver(1);
    assert_eq!(told(&bench.sent(0)), vec![(0, 4, vec![4])]);
}

#[test]
fn an_interval_with_events_in_it_passes_without_notice() {
    let mut bench = bench();
    bench.create(0, WatchCreateRequest { progress_notify: true, ..on("a", "") });
    bench.create(0, on("a", ""));
    bench.sent(0);
    bench.world.put("a", "");
    bench.deliver(1);
    bench.tick(110, true);
    let mut sent = told(&bench.sent(0));
    sent.sort();
    assert_eq!(sent, vec![(0, 2, vec![2]), (1, 2, vec![2])]);
    bench.tick(220, true);
    assert_eq!(told(&bench.sent(0)), vec![(0, 2, vec![])]);
    bench.tick(221, true);
    assert!(bench.sent(0).is_empty());
}

#[test]
fn fragments_are_cut_where_etcd_cuts_them() {
    let mut bench = bench();
    bench.table.settings.bounds.response_bytes = usize::MAX;
    for _ in 0..3 {
        let put = |at: u32| Change::Put(format!("f{at:03}").into(), vec![0; 14_000]);
        bench.world.txn((0..100).map(put).collect());
    }
    bench.deliver(3);
    for fragment in [true, false] {
        bench.create(0, WatchCreateRequest { fragment, ..from(2, on("f", "g")) });
    }
    bench.catch_up(0);
    bench.catch_up(0);
    let mut sent = bench.sent(0);
    bench.catch_up(0);
    sent.extend(bench.sent(0));
    let counts = |id: i64| -> Vec<_> {
        let of = sent.iter().filter(|m| m.watch_id == id && !m.created);
        of.map(|m| (m.events.len(), m.fragment)).collect()
    };
    // As the reference answered the same requests.
    assert_eq!(counts(0), vec![(149, true), (149, true), (2, false)]);
    assert_eq!(counts(1), vec![(300, false)]);
}

#[test]
fn a_response_in_fragments_covers_several_revisions_unless_much_is_waiting() {
    let mut bench = bench();
    for _ in 0..20 {
        bench.world.put("a", &"v".repeat(900_000));
    }
    bench.deliver(20);
    let asked = |bench: &mut Bench, fragment| {
        bench.create(0, WatchCreateRequest { fragment, ..from(2, on("a", "")) });
        bench.sent(0);
        let mut sent = Vec::new();
        while bench.catch_up(0) {
            sent.extend(bench.sent(0).iter().map(|m| (m.events.len(), m.fragment)));
        }
        sent
    };
    let in_fragments = [(2, true), (2, true), (2, true), (2, true), (2, false)];
    assert_eq!(asked(&mut bench, true), in_fragments.repeat(2));
    assert_eq!(asked(&mut bench, false), [(2, false)].repeat(10));
    // Other streams have stalled.
    bench.table.queued += limits::WATCH_QUEUED_BYTES;
    assert_eq!(asked(&mut bench, true), [(2, false)].repeat(10));
    bench.table.queued -= limits::WATCH_QUEUED_BYTES;
}

#[test]
fn a_watch_catches_up_by_a_thousand_revisions_at_a_time() {
    let mut bench = bench();
    for _ in 0..1500 {
        bench.world.put("a", "");
    }
    bench.deliver(usize::MAX);
    bench.create(0, from(2, on("a", "")));
    bench.create(0, from(2, on("", "\0")));
    while bench.catch_up(0) {}
    let counts: Vec<_> = bench.sent(0).iter().map(|m| (m.watch_id, m.events.len())).collect();
    // Turn about.
    assert_eq!(counts, vec![(0, 0), (1, 0), (0, 1000), (1, 1000), (0, 500), (1, 500)]);
}

#[test]
fn a_stalled_stream_holds_a_bounded_queue_and_loses_nothing() {
    let mut bench = bench();
    for _ in 0..10 {
        bench.create(0, on("a", "b"));
        bench.create(1, on("a", "b"));
    }
    for _ in 0..2000 {
        bench.world.put("a", "a value of some length");
        bench.deliver(1);
        bench.take(1);
        assert!(bench.table.queued < limits::WATCH_STREAM_BYTES + 1000);
    }
    assert!(bench.table.queued > limits::WATCH_STREAM_BYTES);
    bench.finish();
    let live = bench.table.watches.iter().filter(|(_, watch)| watch.standing == table::Standing::Live).count();
    assert_eq!(live, 20);
}

#[test]
fn an_event_is_encoded_once_and_shared() {
    let mut bench = bench();
    for stream in 0..3 {
        bench.create(stream, on("", "\0"));
        bench.take(stream);
    }
    bench.world.put("a", &"v".repeat(10_000));
    bench.deliver(1);
    let parts: Vec<_> = (0..3u8)
        .map(|stream| {
            let id = bench.stream(stream).id;
            bench.table.take(id)
        })
        .collect();
    assert!(parts.iter().all(|parts| parts.len() == 2 && parts[0].len() < 100 && parts[1].len() > 10_000));
    assert_eq!(parts[0][1].as_ptr(), parts[1][1].as_ptr());
    assert_eq!(parts[0][1].as_ptr(), parts[2][1].as_ptr());
}

#[test]
fn streams_end_when_the_leader_stays_away_and_when_the_server_stops() {
    let mut bench = bench();
    let (needs, does_not) = (bench.table.open(true), bench.table.open(false));
    for (now_ms, has_leader) in [(0, false), (1000, true), (2000, false), (2500, false), (3000, false)] {
        bench.tick(now_ms, has_leader);
        assert_eq!(bench.table.ended(needs), None, "at {now_ms}");
    }
    bench.tick(4000, false);
    assert_eq!(bench.table.ended(needs), Some(error::NO_LEADER));
    assert_eq!(bench.table.ended(does_not), None);
    bench.table.stop();
    assert_eq!(bench.table.ended(does_not), Some(error::STOPPED));
}

#[test]
fn what_a_group_and_a_watch_weigh() {
    // 250 bytes a watch, its range, its id and the slabs' slack included.
    assert!(size_of::<table::Watch>() <= 56, "{}", size_of::<table::Watch>());
    assert!(size_of::<table::Stream>() <= 176, "{}", size_of::<table::Stream>());
}
