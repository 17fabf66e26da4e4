//! `urd-wal` on the sample of the format's first version: what it prints, and what it says of damage.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/formats/v1")
}

/// Exit code, standard output, standard error.
fn run(command: &str, dir: &Path) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_urd-wal")).arg(command).arg(dir).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn damaged_copy(file: &str, offset: u64) -> PathBuf {
    // Tests run side by side and damage the same bytes.
    static COPIES: AtomicU32 = AtomicU32::new(0);
    let copy = COPIES.fetch_add(1, Relaxed);
    let dir = std::env::temp_dir().join(format!("urd-wal-{}-{copy}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    for name in ["00000001.seg", "checkpoint"] {
        fs::copy(sample().join(name), dir.join(name)).unwrap();
    }
    let opened = fs::OpenOptions::new().read(true).write(true).open(dir.join(file)).unwrap();
    let mut byte = [0];
    opened.read_exact_at(&mut byte, offset).unwrap();
    opened.write_all_at(&[byte[0] ^ 1], offset).unwrap();
    dir
}

#[test]
fn dump_prints_each_record_on_a_line() {
    let (code, out, err) = run("dump", &sample());
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(
        out,
        "\
00000001.seg         0 segment version=1 life=1 size=16384 cluster=c1 member=e1
00000001.seg      4096 write=1 entry term=1 index=1 len=67 ConfChangeAddNode node=e1
00000001.seg      4216 write=1 hard-state term=1 index=1 len=8 vote=e1
00000001.seg      8192 write=2 entry term=1 index=2 len=8 lease_grant id=7 ttl=60 id=10
00000001.seg      8248 write=2 entry term=1 index=3 len=18 put key=\"key\" value_len=5 lease=7 id=11
00000001.seg      8320 write=2 hard-state term=1 index=3 len=8 vote=e1
00000001.seg     12288 write=3 moved term=0 index=3 len=45 values=1 2.0<-00000001:8307
"
    );
}

#[test]
fn verify_says_what_is_there() {
    let (code, out, err) = run("verify", &sample());
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(
        out,
        "checkpoint: sound, at index 3, 1 values in their places\nlog: sound, 1 segments, 6 records, last index 3\n"
    );
}

#[test]
fn verify_names_what_is_damaged() {
    for (file, offset, told) in [
        ("00000001.seg", 0x2068, "00000001.seg is damaged at byte 8248, where the record of raft entry 3 was expected"),
        ("00000001.seg", 30, "00000001.seg is damaged at byte 0"),
        ("checkpoint", 0x70, "damaged at byte 92"),
    ] {
        let dir = damaged_copy(file, offset);
        let (code, out, err) = run("verify", &dir);
        assert_eq!((code, out.as_str()), (Some(1), ""));
        assert!(err.contains(told), "{err}");
        fs::remove_dir_all(dir).unwrap();
    }
    let (code, _, err) = run("verify", &std::env::temp_dir().join("no-such-directory-of-urd"));
    assert!(code == Some(1) && err.contains("cannot list"), "{err}");
}

#[test]
fn dump_goes_on_behind_damage() {
    let dir = damaged_copy("00000001.seg", 0x2068);
    let (code, out, _) = run("dump", &dir);
    assert_eq!(code, Some(0));
    assert!(out.contains("8248 DAMAGED") && out.contains("8320 write=2 hard-state"), "{out}");
    fs::remove_dir_all(dir).unwrap();
}
