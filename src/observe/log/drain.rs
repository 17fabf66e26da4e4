//! The way for the raft crate's log lines: it speaks `slog`, and what it says goes where all lines go, under a name.

use std::fmt;

use super::{Level, enabled, field::Field, write};

/// Sends records on under the given name (etcd's raft logs carry `"logger":"raft"`).
#[derive(Clone, Debug)]
pub struct Drain {
    name: &'static str,
}

impl Drain {
    pub fn new(name: &'static str) -> Self {
        Drain { name }
    }

    /// A logger that the crate can be handed.
    pub fn logger(name: &'static str) -> slog::Logger {
        slog::Logger::root(Drain::new(name), slog::o!())
    }
}

impl slog::Drain for Drain {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &slog::Record<'_>, values: &slog::OwnedKVList) -> Result<(), slog::Never> {
        let level = level(record.level());
        if !enabled(level) {
            return Ok(());
        }
        let mut fields = Fields::default();
        // Texts only are collected, which cannot fail; the record's own come first.
        let _ = slog::KV::serialize(&record.kv(), record, &mut fields);
        let _ = slog::KV::serialize(values, record, &mut fields);
        let message = record.msg().to_string();
        let caller = format!("{}:{}", record.file(), record.line());
        let fields: Vec<(&str, &dyn Field)> =
            fields.0.iter().map(|(key, value)| (key.as_str(), value as &dyn Field)).collect();
        write(level, self.name, &caller, &message, &fields);
        Ok(())
    }

    fn is_enabled(&self, wanted: slog::Level) -> bool {
        enabled(level(wanted))
    }
}

fn level(level: slog::Level) -> Level {
    match level {
        slog::Level::Critical => Level::Panic,
        slog::Level::Error => Level::Error,
        slog::Level::Warning => Level::Warn,
        slog::Level::Info => Level::Info,
        slog::Level::Debug | slog::Level::Trace => Level::Debug,
    }
}

#[derive(Default)]
struct Fields(Vec<(String, String)>);

impl slog::Serializer for Fields {
    fn emit_arguments(&mut self, key: slog::Key, value: &fmt::Arguments<'_>) -> slog::Result {
        self.0.push((key.to_string(), value.to_string()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_records_fields_are_collected() {
        struct Keep(std::sync::Mutex<Vec<(String, String)>>);
        impl slog::Drain for &'static Keep {
            type Ok = ();
            type Err = slog::Never;
            fn log(&self, record: &slog::Record<'_>, values: &slog::OwnedKVList) -> Result<(), slog::Never> {
                let mut fields = Fields::default();
                slog::KV::serialize(&record.kv(), record, &mut fields).unwrap();
                slog::KV::serialize(values, record, &mut fields).unwrap();
                self.0.lock().unwrap().extend(fields.0);
                Ok(())
            }
        }
        static KEEP: Keep = Keep(std::sync::Mutex::new(Vec::new()));
        let logger = slog::Logger::root(&KEEP, slog::o!("raft_id" => 7));
        slog::info!(logger, "became leader"; "term" => 2, "from" => "x");
        let mut fields = KEEP.0.lock().unwrap().clone();
        fields.sort();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(fields, [pair("from", "x"), pair("raft_id", "7"), pair("term", "2")]);
    }
}
