//! What `docs/compatibility.md` promises is what the program does, and nothing of etcd's is left unsaid.

use std::path::Path;

use urd::config::{flags, usage};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
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
