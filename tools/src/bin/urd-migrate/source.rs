//! What is migrated: a snapshot file with its digest, or a data directory, locked so that no etcd runs in it.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use urd::{
    bolt::read::{self, Database},
    wal::lock,
};

use super::Failure;

/// Bytes of a snapshot's digest, behind the database.
const DIGEST_BYTES: u64 = 32;

/// What a database and its digest end beside: the smallest sector there is, and part of every page. (etcd:
/// etcdutl/snapshot, hasChecksum.)
const SECTOR_BYTES: u64 = 512;

/// Bytes hashed at a time.
const HASH_BYTES: usize = 1 << 20;

pub enum Place {
    Snapshot,
    Directory { wal: PathBuf },
}

pub struct Source {
    pub place: Place,
    pub database: Database<Beginning>,
    /// Held until all is read.
    _locked: Vec<File>,
}

/// The first bytes of a file.
pub struct Beginning {
    file: File,
    bytes: u64,
}

impl read::Source for Beginning {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.bytes)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        read::Source::read_at(&self.file, offset, into)
    }
}

impl Source {
    pub fn open(path: &Path, wal_dir: Option<&Path>, skip_hash_check: bool) -> Result<Source, Failure> {
        if path.is_dir() { Source::directory(path, wal_dir) } else { Source::snapshot(path, skip_hash_check) }
    }

    fn snapshot(path: &Path, skip_hash_check: bool) -> Result<Source, Failure> {
        let file = open(path)?;
        let all = file.metadata()?.len();
        let has_digest = all % SECTOR_BYTES == DIGEST_BYTES;
        let bytes = if has_digest { all - DIGEST_BYTES } else { all };
        if !skip_hash_check {
            if !has_digest {
                return Err("snapshot missing hash but --skip-hash-check=false".into());
            }
            check_digest(&file, bytes).map_err(|cause| format!("{}: {cause}", path.display()))?;
        }
        let database = Database::open(Beginning { file, bytes }, &path.display().to_string())?;
        Ok(Source { place: Place::Snapshot, database, _locked: Vec::new() })
    }

    fn directory(path: &Path, wal_dir: Option<&Path>) -> Result<Source, Failure> {
        let member = path.join("member");
        if !member.is_dir() {
            return Err(format!("{} is no data directory of etcd: it holds no member/", path.display()).into());
        }
        let wal = wal_dir.map_or_else(|| member.join("wal"), Path::to_owned);
        let db = member.join("snap/db");
        let file = open(&db)?;
        // etcd holds a lock on the database for as long as it runs.
        let held = open(&db)?;
        lock::try_lock(&held).map_err(|cause| match cause.kind() {
            io::ErrorKind::WouldBlock => format!("{} is in use: stop etcd first", db.display()),
            _ => format!("cannot lock {}: {cause}", db.display()),
        })?;
        let bytes = file.metadata()?.len();
        let database = Database::open(Beginning { file, bytes }, &db.display().to_string())?;
        Ok(Source { place: Place::Directory { wal }, database, _locked: vec![held] })
    }
}

fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|cause| format!("cannot open {}: {cause}", path.display()).into())
}

fn check_digest(file: &File, bytes: u64) -> Result<(), Failure> {
    let mut reader = file.try_clone()?.take(bytes);
    let mut digest = Sha256::new();
    let mut piece = vec![0; HASH_BYTES];
    loop {
        let len = reader.read(&mut piece)?;
        if len == 0 {
            break;
        }
        digest.update(&piece[..len]);
    }
    let mut stated = [0; DIGEST_BYTES as usize];
    read::Source::read_at(file, bytes, &mut stated)?;
    let found = digest.finalize();
    match found[..] == stated {
        true => Ok(()),
        false => Err(format!(
            "expected sha256 {}, got {}: the file is not what was saved; --skip-hash-check takes it all the same",
            hex(&stated),
            hex(&found)
        )
        .into()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
