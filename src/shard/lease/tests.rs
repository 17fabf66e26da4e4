use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Grant(i64, i64),
    Revoke(i64),
    Renew(i64),
    Pass(u64),
    Due(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let id = 0i64..12;
    let ttl = prop_oneof![2i64..10, 10i64..5000, Just(limits::LEASE_TTL_SECONDS_MAX)];
    let pass = prop_oneof![0u64..200, 200u64..5_000, 5_000u64..4_000_000];
    let step = prop_oneof![
        3 => (id.clone(), ttl).prop_map(|(id, ttl)| Step::Grant(id, ttl)),
        1 => id.clone().prop_map(Step::Revoke),
        3 => id.prop_map(Step::Renew),
        3 => pass.prop_map(Step::Pass),
        3 => (0usize..20).prop_map(Step::Due),
    ];
    prop::collection::vec(step, 0..200)
}

/// What a lease is in the naive model: deadline, seconds, when it was last handed out.
#[derive(Clone, Copy, Debug)]
struct Plain {
    at_ms: u64,
    ttl: i64,
    handed_out_ms: Option<u64>,
}

proptest! {
    #[test]
    fn deadlines_are_those_of_a_plain_list(steps in steps()) {
        let mut deadlines = Deadlines::default();
        deadlines.promote(1, [], 0, 0);
        let mut model: BTreeMap<i64, Plain> = BTreeMap::new();
        let mut now_ms = 1000;
        for step in steps {
            match step {
                Step::Grant(id, ttl) => {
                    deadlines.granted(id, ttl, now_ms);
                    let plain = Plain { at_ms: now_ms + ttl as u64 * 1000, ttl, handed_out_ms: None };
                    model.entry(id).or_insert(plain);
                }
                Step::Revoke(id) => {
                    deadlines.revoked(id);
                    model.remove(&id);
                }
                Step::Renew(id) => {
                    let renewed = model
                        .get_mut(&id)
                        .filter(|plain| plain.handed_out_ms.is_none() && plain.at_ms > now_ms)
                        .map(|plain| {
                            plain.at_ms = now_ms + plain.ttl as u64 * 1000;
                            plain.ttl
                        });
                    prop_assert_eq!(deadlines.renew(id, now_ms), renewed);
                }
                Step::Pass(ms) => now_ms += ms,
                Step::Due(max) => {
                    let due = deadlines.due(now_ms, max);
                    prop_assert!(due.len() <= max);
                    for id in &due {
                        let plain = model.get_mut(id).expect("a lease that is due exists");
                        prop_assert!(plain.at_ms <= now_ms, "{} was handed out early", id);
                        if let Some(before) = plain.handed_out_ms {
                            prop_assert!(now_ms >= before + limits::LEASE_EXPIRY_RETRY_MS);
                        }
                        plain.handed_out_ms = Some(now_ms);
                    }
                    if due.len() < max {
                        for (id, plain) in &model {
                            let since = plain.handed_out_ms.map_or(plain.at_ms, |at| at + limits::LEASE_EXPIRY_RETRY_MS);
                            prop_assert!(since + limits::LEASE_STEP_MS > now_ms, "{} was forgotten", id);
                        }
                    }
                }
            }
            prop_assert_eq!(deadlines.len(), model.len());
            for (id, plain) in &model {
                let left = plain.at_ms as i64 - now_ms as i64;
                prop_assert_eq!(deadlines.remaining(*id, now_ms), Some((left, plain.ttl)));
            }
        }
    }

    #[test]
    fn a_slot_never_comes_up_late(at_ms in 0u64..u64::MAX / 4, distance in 0u64..1 << 50) {
        let now_ms = at_ms.saturating_sub(distance);
        let slot_ms = slot_for(at_ms, now_ms);
        prop_assert!(slot_ms < at_ms + limits::LEASE_STEP_MS);
        prop_assert!(slot_ms >= now_ms, "a slot in the past would be looked at over and over");
        // Half of the way at least is done in one go, so that a lease moves a logarithmic number of times.
        prop_assert!(at_ms.saturating_sub(slot_ms) <= (at_ms - now_ms) / 8);
    }
}

#[test]
fn slots_are_few_however_many_the_leases() {
    let mut deadlines = Deadlines::default();
    deadlines.promote(1, [], 0, 0);
    for id in 0..20_000 {
        deadlines.granted(id, 2 + id * 450_000, id as u64);
    }
    assert!(deadlines.slots.len() < 2000, "{} slots", deadlines.slots.len());
}

#[test]
fn leases_that_come_and_go_leave_nothing_behind() {
    let mut deadlines = Deadlines::default();
    deadlines.promote(1, [], 0, 0);
    for id in 0..100_000 {
        deadlines.granted(id, 1_000_000 + id % 7, 0);
        deadlines.revoked(id);
    }
    let entries: usize = deadlines.slots.values().map(Vec::len).sum();
    assert!(entries <= 1025, "{entries} entries of no lease");
}

#[test]
fn seconds_are_those_that_will_have_passed() {
    for (left_ms, seconds) in
        [(60_000, 59), (59_001, 59), (59_000, 58), (1000, 0), (1, 0), (0, 0), (-999, 0), (-1000, -1)]
    {
        assert_eq!(whole_seconds(left_ms), seconds, "{left_ms} ms");
    }
}

#[test]
fn a_new_leader_extends_and_an_old_one_forgets() {
    let mut deadlines = Deadlines::default();
    let leases = [Lease { id: 1, ttl: 60, remaining: 0 }, Lease { id: 2, ttl: 60, remaining: 7 }];
    deadlines.granted(3, 60, 0);
    assert!(deadlines.is_empty(), "who does not lead keeps no deadlines");
    deadlines.promote(1, leases, 1000, 5000);
    assert_eq!(deadlines.remaining(1, 5000), Some((61_000, 60)));
    assert_eq!(deadlines.remaining(2, 5000), Some((8_000, 60)));
    assert_eq!(deadlines.renew(2, 6000), Some(60));
    assert_eq!(deadlines.remaining(2, 6000), Some((60_000, 60)));
    deadlines.demote();
    assert_eq!(deadlines.renew(1, 6000), None);
    assert_eq!(deadlines.due(u64::MAX / 2, 10), Vec::<i64>::new());
}

#[test]
fn every_shard_owns_its_share() {
    for shards in 1..9usize {
        let mut counts = vec![0; shards];
        for id in 0..9000 {
            counts[owner(0x7a5f_1234_5600_0000 + id, shards)] += 1;
            counts[owner(id - 4500, shards)] += 1;
        }
        assert!(counts.iter().all(|count| *count > 9000 / shards), "{counts:?}");
    }
}

/// What it does without is seen by everything above.
#[test]
fn what_is_left_is_told_in_intervals_and_taken_back_before_a_renewal() {
    let mut deadlines = Deadlines::checkpointing(300_000);
    deadlines.promote(1, [Lease { id: 1, ttl: 1000, remaining: 0 }], 1000, 0);
    deadlines.granted(2, 300, 0);
    deadlines.granted(3, 900, 50_000);
    assert_eq!(deadlines.checkpoints_due(299_999, 10), []);
    assert!(!deadlines.is_checkpointed(1, 0));
    // The second has no more than an interval, the third not begun its second one.
    assert_eq!(deadlines.checkpoints_due(300_000, 10), [(1, 701)]);
    assert_eq!(deadlines.checkpoints_due(300_000, 10), []);
    assert!(deadlines.is_checkpointed(1, 0), "it is on its way");
    assert!(!deadlines.checkpointed(1, 701, 300_100));
    assert!(deadlines.is_checkpointed(1, 701) && !deadlines.is_checkpointed(1, 0));
    assert_eq!(deadlines.checkpoints_due(600_099, 10), [(3, 350)]);
    assert!(!deadlines.checkpointed(3, 350, 600_099));
    assert_eq!(deadlines.checkpoints_due(600_100, 10), [(1, 401)]);
    // It is taken back, and so the lease has all its time.
    assert!(!deadlines.checkpointed(1, 0, 600_200));
    assert_eq!(deadlines.renew(1, 600_200), Some(1000));
    // One that was renewed when its time had come has another interval.
    assert_eq!(deadlines.renew(1, 900_200), Some(1000));
    assert_eq!(deadlines.checkpoints_due(900_200, 10), [(3, 50)]);
    assert_eq!(deadlines.checkpoints_due(1_200_200, 1), [(1, 700)]);
    deadlines.demote();
    assert_eq!(deadlines.checkpoints_due(9_000_000, 10), []);
    assert!(!deadlines.is_checkpointed(1, 0));
}

/// It would have the lease end too early under the next leader.
#[test]
fn what_a_leader_of_before_has_logged_is_noticed() {
    let mut deadlines = Deadlines::checkpointing(300_000);
    deadlines.promote(2, [Lease { id: 1, ttl: 1000, remaining: 0 }], 1000, 0);
    assert!(deadlines.checkpointed(1, 700, 100));
    assert!(!deadlines.checkpointed(1, 0, 200) && !deadlines.checkpointed(9, 5, 200));
    assert_eq!(Deadlines::default().checkpoints_due(u64::MAX, 9), []);
}

#[test]
fn leases_that_come_and_go_leave_no_checkpoints_behind() {
    let mut deadlines = Deadlines::checkpointing(300_000);
    deadlines.promote(1, [], 0, 0);
    for id in 0..1000 {
        deadlines.granted(id, 1_000_000, 0);
        deadlines.revoked(id);
    }
    let checkpoints = deadlines.checkpoints.as_ref().unwrap();
    assert!(checkpoints.next.is_empty() && checkpoints.by_time.is_empty() && checkpoints.under_way.is_empty());
}
