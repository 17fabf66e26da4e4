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

fn run_in_a_folder(seed: u64, plan: Plan) -> Report {
    let folder = folder();
    let told = catch_unwind(AssertUnwindSafe(|| run(seed, plan, folder.path())));
    told.unwrap_or_else(|cause| {
        eprintln!("seed {seed}, {plan:?}");
        std::panic::resume_unwind(cause)
    })
}

#[test]
fn whatever_fails_nothing_untrue_is_told_and_the_cluster_recovers() {
    for members in [1, 3, 5] {
        let plan = Plan { members, ..Plan::default() };
        let mut operations = 0;
        for seed in 0..seeds() {
            operations += run_in_a_folder(seed, plan).operations;
        }
        assert!(operations > 100 * seeds(), "{operations} operations with {members} members are too few to show much");
    }
}

#[test]
fn a_seed_is_a_run() {
    for seed in 100..103 {
        let plan = Plan { faulty_ms: 8_000, ..Plan::default() };
        assert_eq!(run_in_a_folder(seed, plan), run_in_a_folder(seed, plan));
    }
}

/// What the simulator is worth: each of these bugs must show, within so many seeds.
#[test]
fn bugs_that_are_put_in_are_found() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for bug in Planted::ALL {
        let plan = Plan { planted: Some(bug), ..Plan::default() };
        let shows = |seed: &u64| {
            let folder = folder();
            catch_unwind(AssertUnwindSafe(|| run(*seed, plan, folder.path()))).is_err()
        };
        match (0..400).find(shows) {
            Some(seed) => println!("{bug:?}: seed {seed}"),
            None => missed.push(bug),
        }
    }
    std::panic::set_hook(hook);
    assert!(missed.is_empty(), "{missed:?} did not show");
}
