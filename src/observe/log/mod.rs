//! Structured logs in etcd's form, so that what collects and parses etcd's logs goes on working: one JSON object a line,
//! or the tab-separated console form. A line below the level costs one atomic load; a line above it is put together in a
//! buffer of its thread's own and handed to the kernel in one write, without a lock (a file that is rotated has one).

mod drain;
mod field;
mod line;
mod rotate;
mod sampler;

use std::{
    cell::RefCell,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::fd::AsFd as _,
    path::PathBuf,
    sync::{
        OnceLock,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::SystemTime,
};

pub use self::{
    drain::Drain,
    field::{Field, hex, shown},
    line::date,
    rotate::Rotation,
};
use self::{line::Line, rotate::RotatingFile, sampler::Sampler};
use crate::error::cannot_open;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
    Panic,
    Fatal,
}

impl Level {
    pub const ALL: [Level; 6] = [Level::Debug, Level::Info, Level::Warn, Level::Error, Level::Panic, Level::Fatal];

    /// As `--log-level` spells it. The error is etcd's text.
    pub fn parse(text: &str) -> Result<Level, String> {
        match text {
            "debug" | "DEBUG" => Ok(Level::Debug),
            "info" | "INFO" | "" => Ok(Level::Info),
            "warn" | "WARN" | "warning" | "WARNING" => Ok(Level::Warn),
            "error" | "ERROR" => Ok(Level::Error),
            "panic" | "PANIC" | "dpanic" | "DPANIC" => Ok(Level::Panic),
            "fatal" | "FATAL" => Ok(Level::Fatal),
            _ => Err(format!("unrecognized level: {text:?}")),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
            Level::Panic => "panic",
            Level::Fatal => "fatal",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Console,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Stderr,
    Stdout,
    /// Appended to; created if it is not there.
    File(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub level: Level,
    pub format: Format,
    pub outputs: Vec<Output>,
    /// How the one file among them is rotated; None: it only grows.
    pub rotation: Option<Rotation>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { level: Level::Info, format: Format::Json, outputs: vec![Output::Stderr], rotation: None }
    }
}

/// The least level that is written. Info until `start` says otherwise.
static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);
static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Opens the outputs and lets every line from now on go there. Lines before it go to stderr as JSON. The first call
/// counts; it is made before any other thread runs.
///
/// # Errors
/// An output that cannot be opened.
pub fn start(settings: &Settings) -> io::Result<()> {
    let logger = Logger::open(settings)?;
    set_level(settings.level);
    let _ = LOGGER.set(logger);
    Ok(())
}

/// Whether old log files may have to be packed or removed. True once for each time: then `tidy` is to be called.
pub fn take_untidy() -> bool {
    LOGGER.get().is_some_and(|logger| logger.rotating().any(RotatingFile::take_untidy))
}

/// Packs and removes old log files. Takes as long as the disk does: for a background thread.
pub fn tidy() {
    for file in LOGGER.get().into_iter().flat_map(Logger::rotating) {
        // What cannot be tidied up is left lying; it is in nobody's way.
        if let Err(cause) = file.tidy() {
            crate::log!(Warn, "old log files cannot be tidied up", "error" = shown(&cause));
        }
    }
}

/// The least level that is written.
pub fn level() -> Level {
    let number = LEVEL.load(Relaxed);
    Level::ALL.into_iter().find(|level| *level as u8 == number).expect("it is stored as a level's number")
}

/// From now on, in this process.
pub fn set_level(level: Level) {
    LEVEL.store(level as u8, Relaxed);
}

/// Whether a line of that level would be written.
#[inline]
pub fn enabled(level: Level) -> bool {
    level as u8 >= LEVEL.load(Relaxed)
}

/// Writes a line; called through `log!`, which looks at the level first. `name` is the part that speaks, empty for most;
/// `caller` is the place in the source.
pub fn write(level: Level, name: &str, caller: &str, message: &str, fields: &[(&str, &dyn Field)]) {
    let line = Line { level, name, caller, message, time: SystemTime::now() };
    match LOGGER.get() {
        Some(logger) => logger.write(&line, fields),
        // Without a stderr there is nobody to tell.
        None => _ = Logger::open(&Settings::default()).map(|logger| logger.write(&line, fields)),
    }
}

/// Writes a log line: `log!(Info, "added member", "local-member-id" = hex(id), "took" = elapsed)`.
///
/// Values are evaluated only when the level is enabled.
#[macro_export]
macro_rules! log {
    ($level:ident, $message:expr $(, $key:literal = $value:expr)* $(,)?) => {
        if $crate::observe::log::enabled($crate::observe::log::Level::$level) {
            $crate::observe::log::write(
                $crate::observe::log::Level::$level,
                "",
                concat!(file!(), ":", line!()),
                $message,
                &[$(($key, &$value as &dyn $crate::observe::log::Field)),*],
            );
        }
    };
}

struct Logger {
    format: Format,
    outputs: Vec<Way>,
    sampler: Sampler,
}

/// Where lines go.
enum Way {
    Plain(File),
    Rotating(RotatingFile),
}

impl Way {
    fn write(&self, line: &[u8]) -> io::Result<()> {
        match self {
            Way::Plain(file) => (&*file).write_all(line),
            Way::Rotating(file) => file.write(line),
        }
    }
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Logger {
    fn open(settings: &Settings) -> io::Result<Logger> {
        let open = |output: &Output| match output {
            // Copies of the descriptors: the standard library's own handles take a lock for every write.
            Output::Stderr => io::stderr().as_fd().try_clone_to_owned().map(File::from).map(Way::Plain),
            Output::Stdout => io::stdout().as_fd().try_clone_to_owned().map(File::from).map(Way::Plain),
            Output::File(path) => match &settings.rotation {
                Some(rotation) => RotatingFile::open(path, rotation).map(Way::Rotating),
                None => OpenOptions::new().append(true).create(true).open(path).map(Way::Plain),
            },
        };
        let named = |output: &Output| {
            open(output).map_err(|cause| match output {
                Output::File(path) => {
                    io::Error::new(cause.kind(), format!("open sink {path:?}: {}", cannot_open(path)(cause)))
                }
                Output::Stderr | Output::Stdout => cause,
            })
        };
        let outputs = settings.outputs.iter().map(named).collect::<io::Result<Vec<Way>>>()?;
        Ok(Logger { format: settings.format, outputs, sampler: Sampler::default() })
    }

    fn write(&self, line: &Line<'_>, fields: &[(&str, &dyn Field)]) {
        if !self.sampler.admits(line) {
            return;
        }
        BUFFER.with(|buffer| {
            // A value that logs while it is being written would find its thread's buffer taken: it gets one of its own.
            let mut own = Vec::new();
            let mut taken = buffer.try_borrow_mut();
            let buffer = match &mut taken {
                Ok(buffer) => &mut **buffer,
                Err(_) => &mut own,
            };
            buffer.clear();
            line.write(self.format, fields, buffer);
            for output in &self.outputs {
                // A log that cannot be written must not end what it describes.
                let _ = output.write(buffer);
            }
        });
    }

    fn rotating(&self) -> impl Iterator<Item = &RotatingFile> {
        self.outputs.iter().filter_map(|output| match output {
            Way::Rotating(file) => Some(file),
            Way::Plain(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn threads_write_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let settings = Settings { outputs: vec![Output::File(path.clone())], ..Settings::default() };
        let logger = Arc::new(Logger::open(&settings).unwrap());
        let write = |thread: u64| {
            let logger = logger.clone();
            std::thread::spawn(move || {
                for at in 0..50_u64 {
                    let message = format!("line {thread} {at}");
                    let time = SystemTime::now();
                    let line = Line { level: Level::Info, name: "", caller: "src/a.rs:1", message: &message, time };
                    logger.write(&line, &[("thread", &thread), ("text", &"a\nb")]);
                }
            })
        };
        let threads: Vec<_> = (0..4).map(write).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), 200);
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["text"], "a\nb");
        }
    }

    #[test]
    fn levels_are_spelt_as_etcd_spells_them() {
        for level in Level::ALL {
            assert_eq!(Level::parse(level.name()), Ok(level));
        }
        assert_eq!(Level::parse("bad"), Err("unrecognized level: \"bad\"".into()));
        assert!(enabled(Level::Fatal));
    }

    #[test]
    fn values_are_not_looked_at_below_the_level() {
        fn never() -> u64 {
            panic!("evaluated")
        }
        // Tests never lower the level below info.
        log!(Debug, "unseen", "value" = never());
    }
}
