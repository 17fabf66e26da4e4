//! A log file that is moved aside once it is large enough, and what becomes of those that were. Names, sizes and bounds are
//! those of the library that etcd does this with, so that what looks after etcd's log files goes on working. (lumberjack
//! v2.) Moving a file is done by the thread whose line finds it full; packing and removing old ones, which takes long, is
//! left to who has time for it (`tidy`).

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use flate2::{Compression, write::GzEncoder};
use serde::Deserialize;

use super::line::date;
use crate::runtime;

/// `--log-rotation-config-json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Rotation {
    /// Megabytes of 2^20 bytes that a file may hold; 0: 100.
    pub maxsize: i64,
    /// Days that an old file is kept; 0: for ever.
    pub maxage: i64,
    /// Old files that are kept; 0: all.
    pub maxbackups: i64,
    /// Old files are named by the machine's time, not by UTC.
    pub localtime: bool,
    pub compress: bool,
}

impl Rotation {
    pub fn is_sound(&self) -> bool {
        self.maxsize >= 0 && self.maxage >= 0 && self.maxbackups >= 0
    }

    fn bytes_max(&self) -> u64 {
        let megabytes = if self.maxsize == 0 { 100 } else { self.maxsize as u64 };
        megabytes.saturating_mul(1024 * 1024)
    }

    /// Whether old files are ever looked at again.
    fn tidies(&self) -> bool {
        self.maxage > 0 || self.maxbackups > 0 || self.compress
    }
}

/// The file, and how full it is.
#[derive(Debug)]
struct Open {
    file: File,
    len: u64,
}

#[derive(Debug)]
pub(super) struct RotatingFile {
    path: PathBuf,
    rotation: Rotation,
    bytes_max: u64,
    open: Mutex<Open>,
    /// Old files may have to be packed or removed.
    untidy: AtomicBool,
}

impl RotatingFile {
    pub fn open(path: &Path, rotation: &Rotation) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let len = file.metadata()?.len();
        Ok(RotatingFile {
            path: path.to_owned(),
            bytes_max: rotation.bytes_max(),
            untidy: AtomicBool::new(rotation.tidies()),
            rotation: rotation.clone(),
            open: Mutex::new(Open { file, len }),
        })
    }

    /// Writes a whole line; before it, moves the file aside if the line does not fit.
    pub fn write(&self, line: &[u8]) -> io::Result<()> {
        let len = line.len() as u64;
        if len > self.bytes_max {
            return Err(io::Error::other("a line longer than a log file may be"));
        }
        // Nothing panics under this lock.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len + len > self.bytes_max {
            *open = self.roll()?;
        }
        open.file.write_all(line)?;
        open.len += len;
        Ok(())
    }

    /// Moves the file aside and begins a new one with its permissions.
    fn roll(&self) -> io::Result<Open> {
        let mode = fs::metadata(&self.path).map_or(0o600, |metadata| metadata.permissions().mode() & 0o777);
        match fs::rename(&self.path, self.path.with_file_name(self.name_of(SystemTime::now()))) {
            // Somebody may have moved it before.
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
            _ => {}
        }
        let file = OpenOptions::new().append(true).create(true).mode(mode).open(&self.path)?;
        let len = file.metadata()?.len();
        self.untidy.store(self.rotation.tidies(), Relaxed);
        Ok(Open { file, len })
    }

    /// What stands before the time in an old file's name, and after it.
    fn prefix_and_suffix(&self) -> (String, String) {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
        let suffix = self.path.extension().map_or(String::new(), |it| format!(".{}", it.to_string_lossy()));
        (format!("{stem}-"), suffix)
    }

    fn name_of(&self, time: SystemTime) -> String {
        let (prefix, suffix) = self.prefix_and_suffix();
        format!("{prefix}{}{suffix}", stamp(time, self.rotation.localtime))
    }

    /// Whether there may be something for `tidy`; asked once it is done.
    pub fn take_untidy(&self) -> bool {
        self.untidy.swap(false, Relaxed)
    }

    /// Removes old files beyond what is to be kept and packs the others.
    pub fn tidy(&self) -> io::Result<()> {
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut old = self.old_files(folder)?;
        // The newest first.
        old.sort_by(|a, b| b.stamp.cmp(&a.stamp));
        let age_max = Duration::from_secs((self.rotation.maxage as u64).saturating_mul(24 * 60 * 60));
        let oldest = SystemTime::now().checked_sub(age_max).map(|time| stamp(time, false));
        let mut kept: Vec<String> = Vec::new();
        for file in old {
            let plain = file.name.strip_suffix(PACKED).unwrap_or(&file.name).to_owned();
            // One that is there in both forms, because packing was cut short, counts once.
            if !kept.contains(&plain) {
                kept.push(plain);
            }
            let too_many = self.rotation.maxbackups > 0 && kept.len() as i64 > self.rotation.maxbackups;
            let too_old = self.rotation.maxage > 0 && oldest.as_ref().is_some_and(|oldest| file.stamp < *oldest);
            let path = folder.join(&file.name);
            if too_many || too_old {
                fs::remove_file(path)?;
            } else if self.rotation.compress && !file.name.ends_with(PACKED) {
                pack(&path)?;
            }
        }
        Ok(())
    }

    fn old_files(&self, folder: &Path) -> io::Result<Vec<Old>> {
        let (prefix, suffix) = self.prefix_and_suffix();
        let packed = format!("{suffix}{PACKED}");
        let mut old = Vec::new();
        for entry in fs::read_dir(folder)? {
            let Ok(name) = entry?.file_name().into_string() else { continue };
            let Some(rest) = name.strip_prefix(&prefix) else { continue };
            let stamp = [&suffix, &packed]
                .into_iter()
                .find_map(|end| rest.strip_suffix(end.as_str()).filter(|it| is_stamp(it)));
            if let Some(stamp) = stamp.map(str::to_owned) {
                old.push(Old { stamp, name });
            }
        }
        Ok(old)
    }
}

/// A file that was moved aside. Stamps are in the order of their times.
struct Old {
    stamp: String,
    name: String,
}

const PACKED: &str = ".gz";

/// `2006-01-02T15-04-05.000`.
fn stamp(time: SystemTime, local: bool) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs() as i64;
    let seconds = match local {
        true => seconds + runtime::seconds_east_of_utc(seconds),
        false => seconds,
    };
    let seconds = seconds.max(0) as u64;
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}-{minute:02}-{second:02}.{:03}", since.subsec_millis())
}

fn is_stamp(text: &str) -> bool {
    const FORM: &[u8] = b"0000-00-00T00-00-00.000";
    let fits = |(byte, form): (u8, &u8)| if *form == b'0' { byte.is_ascii_digit() } else { byte == *form };
    text.len() == FORM.len() && text.bytes().zip(FORM).all(fits)
}

/// Puts a gzipped copy in a file's place.
fn pack(path: &Path) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(PACKED);
    let packed = PathBuf::from(name);
    let copied = copy_packed(path, &packed);
    match copied {
        Ok(()) => fs::remove_file(path),
        Err(cause) => {
            let _ = fs::remove_file(packed);
            Err(cause)
        }
    }
}

fn copy_packed(from: &Path, to: &Path) -> io::Result<()> {
    let mut from = File::open(from)?;
    let mode = from.metadata()?.permissions().mode() & 0o777;
    let to = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(to)?;
    let mut encoder = GzEncoder::new(to, Compression::default());
    io::copy(&mut from, &mut encoder)?;
    encoder.finish().map(drop)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, io::Read as _};

    use super::*;

    fn names(folder: &Path) -> BTreeSet<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        fs::read_dir(folder).unwrap().map(name).collect()
    }

    fn file(folder: &Path, rotation: Rotation, bytes_max: u64) -> RotatingFile {
        let file = RotatingFile::open(&folder.join("urd.log"), &rotation).unwrap();
        RotatingFile { bytes_max, ..file }
    }

    #[test]
    fn a_full_file_is_moved_aside_and_no_line_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("urd.log"), "before\n").unwrap();
        let file = file(folder.path(), Rotation::default(), 20);
        for line in ["one\n", "two\n", "three\n", "four\n"] {
            // Stamps tell milliseconds: two moves in one would be one name.
            std::thread::sleep(Duration::from_millis(2));
            file.write(line.as_bytes()).unwrap();
        }
        let names = names(folder.path());
        assert_eq!(names.len(), 2, "{names:?}");
        let old = names.iter().find(|name| *name != "urd.log").unwrap();
        assert!(is_stamp(&old["urd-".len()..old.len() - ".log".len()]), "{old}");
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!((read(old).as_str(), read("urd.log").as_str()), ("before\none\ntwo\n", "three\nfour\n"));
        assert!(file.write(&[b'x'; 21]).is_err(), "a line that fits no file");
        assert!(!file.take_untidy(), "everything is kept as it is");
    }

    #[test]
    fn what_is_too_many_is_removed_and_the_rest_is_packed() {
        let folder = tempfile::tempdir().unwrap();
        let rotation = Rotation { maxbackups: 2, compress: true, ..Rotation::default() };
        let file = file(folder.path(), rotation, 10);
        for day in 1..=4 {
            fs::write(folder.path().join(format!("urd-2024-01-0{day}T00-00-00.000.log")), format!("{day}")).unwrap();
        }
        for other in ["urd-2024-01-01.log", "urd-2024-01-09T00-00-00.000.txt", "other-2024-01-01T00-00-00.000.log"] {
            fs::write(folder.path().join(other), "not ours").unwrap();
        }
        assert!(file.take_untidy() && !file.take_untidy());
        file.tidy().unwrap();
        let left = names(folder.path());
        let packed: Vec<&str> = left.iter().map(String::as_str).filter(|name| name.ends_with(PACKED)).collect();
        assert_eq!(packed, ["urd-2024-01-03T00-00-00.000.log.gz", "urd-2024-01-04T00-00-00.000.log.gz"]);
        assert_eq!(left.len(), 2 + 3 + 1, "{left:?}");
        let mut text = String::new();
        let bytes = File::open(folder.path().join(packed[1])).unwrap();
        flate2::read::GzDecoder::new(bytes).read_to_string(&mut text).unwrap();
        assert_eq!(text, "4");
        file.tidy().unwrap();
        assert_eq!(names(folder.path()), left, "done once it is done for good");
    }

    #[test]
    fn what_is_too_old_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(folder.path(), Rotation { maxage: 7, ..Rotation::default() }, 10);
        let day = Duration::from_secs(24 * 60 * 60);
        let names_of = |days: u32| file.name_of(SystemTime::now() - day * days);
        let (young, old) = (names_of(6), names_of(8));
        for name in [&young, &old] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        file.tidy().unwrap();
        assert_eq!(names(folder.path()), BTreeSet::from([young, "urd.log".into()]));
    }

    #[test]
    fn stamps_are_the_librarys() {
        let time = UNIX_EPOCH + Duration::from_millis(1_415_491_200_123);
        assert_eq!(stamp(time, false), "2014-11-09T00-00-00.123");
        assert!(is_stamp(&stamp(time, true)));
        assert!(!is_stamp("2014-11-09T00-00-00.12") && !is_stamp("2014-11-09T00:00:00.123"));
    }
}
