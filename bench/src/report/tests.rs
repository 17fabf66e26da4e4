use super::*;
use crate::{
    compare::CompareOptions,
    gauge::{CpuSource, Memory},
    machine::{Cores, Machine},
    plan::{Plan, Workload},
    results::{ServerSeen, Side},
    rows::{self, Stage},
    server::Program,
};

fn outcome(factor: f64) -> Outcome {
    let mut outcome = Outcome {
        operations: 60_000,
        seconds: 6.0,
        cpu_seconds: Some(0.6 * factor),
        driver_cpu_share: 0.5,
        memory: Some(Memory { resident: 90_000_000, anonymous: 60_000_000, file: 30_000_000, peak: 100_000_000 }),
        disk_bytes: Some(450_000_000),
        ..Outcome::default()
    };
    for at in 1..=10_000u64 {
        outcome.latency.record_ns((at * 500) * factor as u64);
    }
    outcome.set("rss_growth_mb", 12.0 * factor);
    outcome
}

fn results() -> Results {
    let goal = |figure: &str, bound| Goal { figure: figure.to_owned(), bound };
    let goals = vec![
        goal("cpu_us_per_op", Bound::AtMost(10.0)),
        goal("p99_ms", Bound::OfReference(0.25)),
        goal("late_seconds", Bound::AtMost(1.5)),
    ];
    let row = |name: &str, workload, goals| Row {
        name: name.to_owned(),
        title: format!("{name} | title"),
        plan: Plan { workload, ..Plan::default() },
        goals,
        is_ground: false,
    };
    let side = |server: &str, outcome| Side { server: server.to_owned(), outcome: Some(outcome), failure: None };
    let failed = Side { server: URD.to_owned(), outcome: None, failure: Some("the stream has ended".to_owned()) };
    let rows = vec![
        RowResult {
            stage: "calls".to_owned(),
            row: row("put", Workload::Put, goals),
            sides: vec![side(ETCD, outcome(4.0)), side(URD, Outcome { driver_cpu_share: 0.97, ..outcome(1.0) })],
        },
        RowResult {
            stage: "calls".to_owned(),
            row: row("idle", Workload::Idle, vec![]),
            sides: vec![side(ETCD, outcome(2.0)), failed],
        },
    ];
    let stages: Vec<Stage> = rows::select("smoke", None).unwrap();
    let options = CompareOptions {
        etcd: "/opt/etcd".into(),
        urd: "/opt/urd".into(),
        rows: "smoke".to_owned(),
        seconds: None,
        out: None,
        data: "/tmp".into(),
        etcd_flag: vec!["--snapshot-count=7".to_owned()],
        urd_flag: vec![],
        tls: false,
        go: "tests/stock".into(),
    };
    let seen = |name: &str| ServerSeen {
        name: name.to_owned(),
        program: Program {
            path: format!("/opt/{name}").into(),
            version: "version 3.7.3".to_owned(),
            commit: "abc".to_owned(),
        },
        syncs: "80 sync calls for 40 puts".to_owned(),
        cpu_source: Some(CpuSource::Cgroup),
    };
    let command = Command::Compare { options, cores: Cores { server: 0, driver: 1 }, stages };
    let machine = Machine {
        processor: "A <fast> & good one".to_owned(),
        cpus: 2,
        memory_bytes: 25_000_000_000,
        kernel: "Linux 6.18".to_owned(),
        file_system: "ext4 on /dev/vda".to_owned(),
        sync_ms: Some(0.142),
    };
    let mut results = Results::new(machine, vec![seen(ETCD), seen(URD)], command, rows);
    results.date = "2026-11-25T09:10:00Z".to_owned();
    results
}

/// The tables to the letter, for both are read by people and pasted into documents.
#[test]
fn the_tables_are_as_they_are_kept() {
    let expected = include_str!("golden.txt");
    let text = format!("{}\n----\n{}", text(&results()), markdown(&results()));
    assert!(text == expected, "differs from report/golden.txt:\n{text}");
}

#[test]
fn results_survive_json_with_everything_that_a_repetition_needs() {
    let before = results();
    let after: Results = serde_json::from_str(&before.to_json()).unwrap();
    assert_eq!(after, before);
    let Command::Compare { options, stages, .. } = after.command else { panic!("it was a comparison") };
    assert_eq!(stages, rows::select("smoke", None).unwrap());
    assert_eq!(options.etcd_flag, ["--snapshot-count=7"]);
}

#[test]
fn everything_is_written_and_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    write(&results(), dir.path()).unwrap();
    assert_eq!(Results::load(&dir.path().join("results.json")).unwrap(), results());
    let hgrm = fs::read_to_string(dir.path().join("hgrm/put-urd.hgrm")).unwrap();
    assert!(hgrm.contains("Total count    =        10000"), "{hgrm}");
    assert!(!dir.path().join("hgrm/idle-urd.hgrm").exists(), "it has failed");
    let report = fs::read_to_string(dir.path().join("report.md")).unwrap();
    assert!(report.starts_with("# urd-bench, 2026-11-25T09:10:00Z"));
    let later = results().to_json().replace(r#""format":1"#, r#""format":2"#);
    fs::write(dir.path().join("later.json"), later).unwrap();
    assert!(Results::load(&dir.path().join("later.json")).unwrap_err().contains("format 2"));
}

#[test]
fn failures_are_told_by_row_and_server() {
    assert_eq!(results().failures(), ["idle, urd: the stream has ended"]);
}

#[test]
fn the_page_of_curves_is_well_formed_and_has_every_curve() {
    let text = curves::page(&results());
    let document = roxmltree::Document::parse(&text).unwrap();
    let count = |tag: &str| document.descendants().filter(|node| node.has_tag_name(tag)).count();
    // Two in the legend, two of put, one of idle; a dot at p99 of each curve.
    assert_eq!((count("polyline"), count("circle")), (5, 3));
    assert!(!text.contains("NaN") && !text.contains("inf"));
    let texts: Vec<&str> = document.descendants().filter_map(|node| node.text()).collect();
    for expected in ["99.99", "put | title", "milliseconds, logarithmic; lower is better", "urd: p50 2.50, p99 4.95 ms"]
    {
        assert!(texts.contains(&expected), "{expected} in {texts:?}");
    }
}
