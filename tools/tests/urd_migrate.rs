//! `urd-migrate` on databases that are made here: what lies in the directory afterwards, and what is refused. With etcd's
//! own files it is tried in `tests/stock/snapshot.sh`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest, Sha256};
use urd::{
    proto::{authpb, etcdserverpb::*},
    raft::identity,
    store::{
        apply::{AppliedBatch, ApplyEntry},
        backend::export::Export,
        checkpoint::HardState,
        hash,
        state::State,
        types::{Place, Values},
    },
    wal::{
        disk::Dir,
        recovery::{self, Options},
        table::SegmentTable,
    },
};

/// Values by segment.
#[derive(Default)]
struct Segments(Vec<Bytes>);

impl Values for Segments {
    fn read(&self, place: Place) -> io::Result<Bytes> {
        let from = place.offset as usize;
        Ok(self.0[place.segment as usize - 1].slice(from..from + place.len as usize))
    }
}

/// A state of some hundred revisions, with its values.
fn state() -> (State, Segments) {
    let (mut state, mut segments) = (State::new(2), Segments::default());
    let mut apply = |request: InternalRaftRequest| {
        let data = Bytes::from(request.encode_to_vec());
        segments.0.push(data.clone());
        let base = Place { segment: segments.0.len() as u32, offset: 0, len: data.len() as u32 };
        let index = state.applied().0 + 1;
        let entry = ApplyEntry { index, term: 3, base, data, quota_room: None };
        let _ = state.apply(&entry, &segments, &mut AppliedBatch::default()).unwrap();
    };
    apply(InternalRaftRequest { lease_grant: Some(LeaseGrantRequest { id: 9, ttl: 500 }), ..Default::default() });
    for at in 0..300usize {
        let key = format!("key{}", at % 50).into();
        let value = vec![at as u8; at * 97 % 5000].into();
        let lease = if at.is_multiple_of(3) { 9 } else { 0 };
        let put = Some(PutRequest { key, value, lease, ..Default::default() });
        apply(InternalRaftRequest { put, ..Default::default() });
        if at.is_multiple_of(10) {
            let key = format!("key{}", at % 7).into();
            let delete_range = Some(DeleteRangeRequest { key, ..Default::default() });
            apply(InternalRaftRequest { delete_range, ..Default::default() });
        }
    }
    let options = Some(authpb::UserAddOptions { no_password: true });
    let user = AuthUserAddRequest { name: "ann".into(), options, ..Default::default() };
    apply(InternalRaftRequest { auth_user_add: Some(user), ..Default::default() });
    let role = AuthRoleAddRequest { name: "reader".into() };
    apply(InternalRaftRequest { auth_role_add: Some(role), ..Default::default() });
    let granted = AuthUserGrantRoleRequest { user: "ann".into(), role: "reader".into() };
    apply(InternalRaftRequest { auth_user_grant_role: Some(granted), ..Default::default() });
    apply(InternalRaftRequest {
        compaction: Some(CompactionRequest { revision: 100, physical: false }),
        ..Default::default()
    });
    state.index.compaction_step(20, &mut |_| {});
    (state, segments)
}

/// The state as a snapshot file, its digest behind it.
fn snapshot(state: &State, segments: &Segments) -> Vec<u8> {
    let mut export = Export::new(state.clone());
    for hole in export.make(usize::MAX) {
        let value = segments.read(hole.what).unwrap();
        export.pages()[hole.at..hole.at + hole.len].copy_from_slice(&value);
    }
    let mut file = export.pages().to_vec();
    let digest = Sha256::digest(&file);
    file.extend_from_slice(&digest);
    file
}

/// Exit code, standard output, standard error.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_urd-migrate")).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

struct Made {
    state: State,
    values: SegmentTable,
    hard_state: HardState,
    ids: (u64, u64),
}

/// What a server would start from.
fn made(path: &Path) -> Made {
    let dir = Dir::open(path).unwrap();
    let recovered = recovery::recover(&dir, &Options::for_requests(1 << 20, 1, 1)).unwrap();
    assert!(recovered.entries.is_empty() && recovered.moves.is_empty() && recovered.cut.is_none());
    Made {
        state: recovered.checkpoint.unwrap().state,
        values: recovered.writer.table().clone(),
        hard_state: recovered.hard_state,
        ids: (recovered.cluster_id, recovered.member_id),
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn written(dir: &Path, bytes: &[u8]) -> PathBuf {
    let path = dir.join("snapshot.db");
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_snapshot_founds_a_cluster_of_one_with_all_that_it_holds() {
    let temp = tempfile::tempdir().unwrap();
    let (state, segments) = state();
    let file = written(temp.path(), &snapshot(&state, &segments));
    let to = temp.path().join("made.urd");
    let url = "http://10.0.0.1:2380";
    let cluster = format!("m1={url}");
    let (code, out, err) = run(&[
        text(&file),
        "--data-dir",
        text(&to),
        "--name=m1",
        "--initial-cluster",
        &cluster,
        "--initial-advertise-peer-urls",
        url,
        "--initial-cluster-token=tok",
    ]);
    assert_eq!((code, &err[..]), (Some(0), ""));
    assert!(
        out.contains(&format!("revision {}, {} changes", state.index.current(), state.index.event_count())),
        "{out}"
    );
    let made = made(&to);
    let member = identity::member_id(&[url.to_owned()], "tok");
    assert_eq!(made.ids, (identity::cluster_id(&[member]), member));
    assert_eq!(made.hard_state, HardState { term: 1, vote: member, commit: 1 });
    assert_eq!(made.state.applied(), (1, 1));
    assert_eq!(made.state.conf_state().voters, [member]);
    let members: Vec<_> =
        made.state.membership.members().map(|one| (one.id, &one.name[..], &one.peer_urls[..])).collect();
    assert_eq!(members, [(member, "m1", &[url.to_owned()][..])]);
    let (index, back) = (&state.index, &made.state.index);
    assert_eq!((back.current(), back.compacted(), back.event_count()), (index.current(), 100, index.event_count()));
    for at in 100..=index.current() {
        let hashes = [hash::hash_kv(index, at, &segments).unwrap(), hash::hash_kv(back, at, &made.values).unwrap()];
        assert_eq!(hashes[0], hashes[1], "at {at}");
    }
    assert_eq!(made.state.leases.keys_owned(9), state.leases.keys_owned(9));
    assert!(!made.state.leases.keys_owned(9).is_empty());
    let (auth, back_auth) = (&state.auth, &made.state.auth);
    assert_eq!((back_auth.enabled(), back_auth.revision()), (None, auth.revision()));
    assert!(back_auth.users().eq(auth.users()) && back_auth.roles().eq(auth.roles()));
    assert_eq!(back_auth.user("ann").unwrap().roles, ["reader"]);
    assert!(back.compacting(), "what the source had begun goes on");
    assert!(!temp.path().join("made.urd.part").exists());
}

#[test]
fn a_bumped_revision_leaves_no_way_back() {
    let temp = tempfile::tempdir().unwrap();
    let (state, segments) = state();
    let file = written(temp.path(), &snapshot(&state, &segments));
    let to = temp.path().join("made");
    let (code, _, err) = run(&[text(&file), "--data-dir", text(&to), "--bump-revision=1000", "--mark-compacted"]);
    assert_eq!((code, &err[..]), (Some(0), ""));
    let made = made(&to);
    let wanted = state.index.current() + 1000;
    assert_eq!((made.state.index.current(), made.state.index.compacted()), (wanted, wanted));
    let (code, _, err) = run(&[text(&file), "--data-dir", text(&to), "--bump-revision=1000"]);
    assert!(code == Some(1) && err.contains("--mark-compacted required"), "{err}");
}

#[test]
fn what_cannot_be_taken_over_whole_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let (state, segments) = state();
    let sound = snapshot(&state, &segments);
    let to = temp.path().join("made");
    let refused = |bytes: &[u8], more: &[&str], told: &str| {
        let file = written(temp.path(), bytes);
        let (code, _, err) = run(&[&[text(&file), "--data-dir", text(&to)], more].concat());
        assert!(code == Some(1) && err.contains(told), "{err}\nwanted: {told}");
        assert!(!to.exists() && !temp.path().join("made.part").exists(), "something is left");
    };
    let database = &sound[..sound.len() - 32];
    refused(database, &[], "snapshot missing hash but --skip-hash-check=false");
    let mut changed = sound.clone();
    changed[5000] ^= 1;
    refused(&changed, &[], "expected sha256");
    refused(&database[..database.len() - 4096], &["--skip-hash-check"], "the file holds");
    refused(&vec![7; 8192], &["--skip-hash-check"], "is no database of etcd");
    let mut damaged = database.to_vec();
    damaged[3 * 4096 + 8] = 9;
    refused(&damaged, &["--skip-hash-check"], "page 3 of");
    refused(&sound, &["--name=m", "--initial-cluster=other=http://localhost:2380"], "m");
    // Where something is already, it stays.
    fs::create_dir(&to).unwrap();
    fs::write(to.join("file"), "").unwrap();
    let file = written(temp.path(), &sound);
    let (code, _, err) = run(&[text(&file), "--data-dir", text(&to)]);
    assert!(code == Some(1) && err.contains("not empty or could not be read"), "{err}");
    fs::remove_file(to.join("file")).unwrap();
    // An empty directory is taken, and a file without its digest, if that is asked for.
    let file = written(temp.path(), database);
    let (code, _, err) = run(&[text(&file), "--data-dir", text(&to), "--skip-hash-check"]);
    assert_eq!((code, &err[..]), (Some(0), ""));
    assert_eq!(made(&to).state.index.current(), state.index.current());
}
