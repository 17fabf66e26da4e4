//! Some seeds of each size; `URD_SEEDS` sets how many. `tools/urd-sim` runs more.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

fn seeds() -> u64 {
    std::env::var("URD_SEEDS").map_or(12, |text| text.parse().expect("a number"))
}

/// In memory where that is to be had: a simulated disk needs no real one.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a folder")
}

fn run_in_a_folder(seed: u64, plan: &Plan) -> Report {
    let folder = folder();
    let told = catch_unwind(AssertUnwindSafe(|| run(seed, plan, folder.path())));
    told.unwrap_or_else(|cause| {
        eprintln!("seed {seed}, {plan:?}");
        std::panic::resume_unwind(cause)
    })
}

#[test]
fn whatever_fails_nothing_untrue_is_told_and_the_cluster_recovers() {
    for (members, changes) in [(1, false), (3, false), (3, true), (5, false), (5, true)] {
        let plan = Plan { members, changes, ..Plan::default() };
        let (mut operations, mut watched, mut expired, mut changed, mut moved, mut compared) = (0, 0, 0, 0, 0, 0);
        for seed in 0..seeds() {
            let report = run_in_a_folder(seed, &plan);
            operations += report.operations;
            watched += report.watched;
            compared += report.spans;
            expired += report.expired;
            changed += report.changes;
            moved += report.moved;
        }
        let enough = [
            operations > 100 * seeds(),
            watched > 10 * seeds(),
            expired > 0,
            changed > 0 || !changes,
            moved > seeds(),
            compared > 10 * seeds(),
        ];
        let told = [operations, watched, expired, changed, moved, compared];
        assert_eq!(enough, [true; 6], "too little has happened to show much, with {members} members: {told:?}");
    }
}

#[test]
fn a_seed_is_a_run() {
    for seed in 100..104 {
        let plan = Plan { faulty_ms: 8_000, changes: seed % 2 == 0, ..Plan::default() };
        assert_eq!(run_in_a_folder(seed, &plan), run_in_a_folder(seed, &plan));
    }
}

/// What is left out is not there, and what comes after it still comes.
#[test]
fn a_fault_can_be_left_out() {
    let plan = Plan { ambushes: false, ..Plan::default() };
    let count = |report: &Report| report.faults.values().sum::<u64>();
    let whole = run_in_a_folder(7, &plan);
    assert!(count(&whole) > 3, "{whole:?}");
    let none = run_in_a_folder(7, &Plan { omitted: (0..1000).collect(), ..plan.clone() });
    assert_eq!(none.faults, BTreeMap::new());
    let some = run_in_a_folder(7, &Plan { omitted: [0, 1, 2].into(), ..plan });
    assert!(count(&some) > 0 && count(&some) < count(&whole), "{some:?}");
}

/// As a failing run may be made as small.
#[test]
fn a_run_may_have_nobody_and_no_time() {
    for (clients, faulty_ms) in [(0, 0), (0, 3_000), (3, 0)] {
        for changes in [false, true] {
            let plan = Plan { clients, lessees: 0, watchers: 0, faulty_ms, changes, ..Plan::default() };
            let report = run_in_a_folder(1, &plan);
            assert_eq!(report.operations > 0, clients > 0, "{report:?}");
        }
    }
}

fn showed(bug: Planted) -> u64 {
    match bug {
        Planted::VotesForShorterLogs
        | Planted::ReadsWithoutQuorum
        | Planted::CheckpointsForgetLeases
        | Planted::SkipsAnEntry
        | Planted::TellsUncommitted => 0,
        Planted::ChangesBeforeCommit | Planted::RecyclesTooEarly => 1,
        Planted::CountsUnsynced | Planted::AnswersUnsynced | Planted::CheckpointsAhead => 2,
        Planted::ReadsBeforeApply => 3,
        Planted::AnswersBeforeInstalled => 15,
        Planted::CountsLearners => 19,
        Planted::DeadlinesByWallClock => 27,
        Planted::TrustsTornWrites => 48,
        Planted::KeepsOldDeadlines => 54,
        Planted::IdsByWallClock => 60,
        Planted::ForgetsVotes => 124,
        Planted::RenewsUnconfirmed => 274,
        Planted::RevokesAsDeposed => 411,
        // So it was found before it was put in.
        Planted::ReplaysFromRecycled => 664,
    }
}

/// What the simulator is worth: each of these bugs must show, within so many seeds.
#[test]
fn bugs_that_are_put_in_are_found() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for bug in Planted::ALL {
        let shows = |seed: &u64| {
            // A member that has joined is what this one takes.
            let changes = seed % 2 == 1 || bug == Planted::ReplaysFromRecycled;
            let plan = Plan { planted: Some(bug), changes, ..Plan::default() };
            let folder = folder();
            catch_unwind(AssertUnwindSafe(|| run(*seed, &plan, folder.path()))).is_err()
        };
        // A seed by which it has shown itself before spares the search, until the simulator changes.
        match [showed(bug)].into_iter().chain(0..400).find(shows) {
            Some(seed) => println!("{bug:?}: seed {seed}"),
            None => missed.push(bug),
        }
    }
    std::panic::set_hook(hook);
    assert!(missed.is_empty(), "{missed:?} did not show");
}
