//! What the process prints about itself and its flags.

use std::fmt::Write as _;

use super::flags::{FLAGS, Kind, Section, Standing};
use crate::version;

/// Four lines in the form of etcd's, whose first tools parse: the etcd version that is implemented, then urd's own.
pub fn version() -> String {
    format!(
        "etcd Version: {}\nurd Version: {}\nMinimum Rust Version: {}\nOS/Arch: {}/{}\n",
        version::ETCD,
        version::URD,
        env!("CARGO_PKG_RUST_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
    )
}

/// What follows the message of an error in the words.
pub fn usage() -> &'static str {
    "Usage:\n\n  urd [flags]\n    Serve.\n\n  urd --version\n    Print the version.\n\n  urd -h | --help\n    \
     Explain every flag.\n\n  Each flag can be given as a variable instead: --data-dir is ETCD_DATA_DIR.\n"
}

/// Every flag by section, without those of earlier releases.
pub fn help() -> String {
    let mut text = usage().to_owned();
    for section in Section::ALL.into_iter().filter(|section| *section != Section::Earlier) {
        let _ = write!(text, "\n{}:\n", section.title());
        for flag in FLAGS.iter().filter(|flag| flag.section == section) {
            match flag.kind {
                Kind::Bool if flag.default == "false" => {
                    let _ = writeln!(text, "  --{}", flag.name);
                }
                _ => {
                    let _ = writeln!(text, "  --{} '{}'", flag.name, flag.default);
                }
            }
            let _ = writeln!(text, "    {}", flag.help);
            match flag.standing {
                Standing::NoEffect(why) => {
                    let _ = writeln!(text, "    No effect: {why}.");
                }
                Standing::Refused(advice) => {
                    let _ = writeln!(text, "    Refused: {advice}.");
                }
                _ => {}
            }
        }
    }
    text
}

/// The flags as `docs/compatibility.md` lists them.
pub fn compatibility_table() -> String {
    let mut text = String::new();
    for section in Section::ALL {
        let _ = write!(text, "### {}\n\n| flag | in urd | why, or what to do |\n|---|---|---|\n", section.title());
        for flag in FLAGS.iter().filter(|flag| flag.section == section) {
            let (standing, note) = match flag.standing {
                Standing::Works => ("works", String::new()),
                Standing::NoEffect(why) => ("accepted, no effect", why.to_owned()),
                Standing::Refused(advice) => ("refused", advice.to_owned()),
                Standing::OldNameOf(name) => ("works", format!("older spelling of `--{name}`")),
                Standing::OldGate(gate) => ("works", format!("older spelling of `--feature-gates={gate}=…`")),
            };
            let _ = writeln!(text, "| `--{}` | {standing} | {note} |", flag.name);
        }
        text.push('\n');
    }
    text
}
