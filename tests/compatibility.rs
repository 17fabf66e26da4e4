//! What `docs/compatibility.md` promises is what the program does, and nothing of etcd's is left unsaid.

use std::collections::BTreeMap;
use std::path::Path;

use prost::Message as _;
use prost_types::FileDescriptorSet;
use urd::config::{flags, usage};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Service and method of every row between the marks, and what it says.
fn rpc_rows(document: &str) -> BTreeMap<(String, String), String> {
    let (_, rest) = document.split_once("<!-- rpcs -->").expect("the methods begin");
    let (listed, _) = rest.split_once("<!-- end of rpcs -->").expect("the methods end");
    let mut service = "";
    let mut rows = BTreeMap::new();
    for line in listed.lines() {
        if let Some(name) = line.strip_prefix("### ") {
            service = name;
        } else if let Some(row) = line.strip_prefix("| `") {
            let (method, rest) = row.split_once("` | ").expect("a method and what is said of it");
            let (said, difference) = rest.split_once(" | ").expect("what it is and how it differs");
            assert_eq!(
                said == "differs",
                difference.len() > 2 && said != "not yet",
                "{service}.{method}: {difference}"
            );
            let twice = rows.insert((service.to_owned(), method.to_owned()), said.to_owned());
            assert_eq!(twice, None, "{service}.{method}");
        }
    }
    rows
}

#[test]
fn every_method_has_a_row_that_says_how_it_is_served() {
    let mut rows = rpc_rows(&read("docs/compatibility.md"));
    let descriptors = FileDescriptorSet::decode(urd::DESCRIPTORS).expect("descriptors");
    for file in &descriptors.file {
        for service in &file.service {
            for method in &service.method {
                let name = (format!("{}.{}", file.package(), service.name()), method.name().to_owned());
                let said = rows.remove(&name).unwrap_or_else(|| panic!("{name:?} has no row"));
                assert!(["same", "differs"].contains(&&said[..]), "{name:?}: {said}");
            }
        }
    }
    assert_eq!(rows, BTreeMap::new(), "rows of no method");
}

/// The names that `etcd --help` of 3.7.3 prints.
#[test]
fn every_flag_of_etcd_is_known() {
    let list = read("tests/compatibility/etcd-3.7.3-flags.txt");
    let missing: Vec<&str> = list.lines().filter(|name| flags::find(name).is_none()).collect();
    assert_eq!(missing, [""; 0]);
    assert!(list.lines().count() > 100);
}

#[test]
fn the_document_lists_every_flag_as_the_program_treats_it() {
    let document = read("docs/compatibility.md");
    let (_, rest) = document.split_once("<!-- flags -->\n\n").expect("the flags begin");
    let (listed, _) = rest.split_once("<!-- end of flags -->").expect("the flags end");
    assert_eq!(listed, usage::compatibility_table());
}

/// The first list is what `/metrics` of 3.7.3 tells from the start, the second what it tells once there is something to
/// be told, and what its sources define and a server alone never tells.
#[test]
fn every_metric_of_etcd_has_a_row() {
    let document = read("docs/compatibility.md");
    let (_, rest) = document.split_once("<!-- metrics -->").expect("the metrics begin");
    let (listed, _) = rest.split_once("<!-- end of metrics -->").expect("the metrics end");
    let mut rows = BTreeMap::new();
    for row in listed.lines().filter_map(|line| line.strip_prefix("| `")) {
        let (name, rest) = row.split_once("` | ").expect("a metric and what is said of it");
        let (said, why) = rest.split_once(" | ").expect("how it is told and why");
        assert!(["same", "differs", "at nothing", "not told"].contains(&said), "{name}: {said}");
        assert_eq!(said != "same", why.len() > 2, "{name}: {why}");
        assert_eq!(rows.insert(name, said), None, "{name}");
    }
    let (from_the_start, later) =
        (read("tests/compatibility/etcd-3.7.3-metrics.txt"), read("tests/compatibility/etcd-3.7.3-metrics-later.txt"));
    for name in from_the_start.lines().filter_map(|line| line.split(' ').next()).chain(later.lines()) {
        assert!(rows.remove(name).is_some(), "{name} has no row");
    }
    assert_eq!(rows, BTreeMap::new(), "rows of no metric");
}
