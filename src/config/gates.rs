//! Feature gates: etcd's named switches, read from `--feature-gates` and from the older flags that they replaced.
//! (etcd: package features, package featuregate.)

use super::value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Alpha,
    Beta,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Stage::Alpha => "ALPHA",
            Stage::Beta => "BETA",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Gate {
    pub name: &'static str,
    pub stage: Stage,
    pub default: bool,
    /// Why turning it from its default changes nothing here; None where it does.
    pub no_effect: Option<&'static str>,
}

/// Every gate of etcd 3.7.3, sorted by name.
pub const GATES: [Gate; 11] = [
    Gate { name: "AllAlpha", stage: Stage::Alpha, default: false, no_effect: None },
    Gate { name: "AllBeta", stage: Stage::Beta, default: false, no_effect: None },
    Gate {
        name: "CompactHashCheck",
        stage: Stage::Alpha,
        default: false,
        no_effect: Some("what members have compacted is compared in any case"),
    },
    Gate {
        name: "FastLeaseKeepAlive",
        stage: Stage::Beta,
        default: true,
        no_effect: Some("a keep-alive never waits for the disk here"),
    },
    Gate { name: "InitialCorruptCheck", stage: Stage::Alpha, default: false, no_effect: None },
    Gate { name: "LeaseCheckpoint", stage: Stage::Alpha, default: false, no_effect: None },
    Gate {
        name: "LeaseCheckpointPersist",
        stage: Stage::Alpha,
        default: false,
        no_effect: Some("what a lease has left is durable as soon as it is in the log"),
    },
    Gate {
        name: "PriorityRequest",
        stage: Stage::Alpha,
        default: false,
        no_effect: Some("requests are served in the order in which they come"),
    },
    Gate {
        name: "SetMemberLocalAddr",
        stage: Stage::Alpha,
        default: false,
        no_effect: Some("the system chooses the address that other members are called from"),
    },
    Gate {
        name: "StopGRPCServiceOnDefrag",
        stage: Stage::Alpha,
        default: false,
        no_effect: Some("urd serves on while space is given back"),
    },
    Gate {
        name: "TxnModeWriteWithSharedBuffer",
        stage: Stage::Beta,
        default: true,
        no_effect: Some("it tunes etcd's bbolt database, which urd does not have"),
    },
];

/// What each gate is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gates {
    /// In the order of `GATES`; None: never mentioned.
    set: [Option<bool>; GATES.len()],
}

impl Default for Gates {
    fn default() -> Self {
        Gates { set: [None; GATES.len()] }
    }
}

impl Gates {
    /// Reads `Name=bool,…` on top of what is set. The error is etcd's text.
    pub fn read(&mut self, text: &str) -> Result<(), String> {
        for pair in text.split(',').filter(|pair| !pair.is_empty()) {
            let (name, value) = match pair.split_once('=') {
                Some((name, value)) => (name.trim(), value.trim()),
                None => return Err(format!("missing bool value for {}", pair.trim())),
            };
            let Some(on) = value::parse_bool(value) else {
                let cause = format!("strconv.ParseBool: parsing {value:?}: invalid syntax");
                return Err(format!("invalid value of {name}={value}, err: {cause}"));
            };
            self.set(name, on)?;
        }
        Ok(())
    }

    pub fn set(&mut self, name: &str, on: bool) -> Result<(), String> {
        match GATES.iter().position(|gate| gate.name == name) {
            Some(at) => self.set[at] = Some(on),
            None => return Err(format!("unrecognized feature gate: {name}")),
        }
        Ok(())
    }

    /// What was said of the gate itself, if anything.
    pub fn said(&self, name: &str) -> Option<bool> {
        self.set[position(name)]
    }

    /// Whether the gate is on: by its own word, else by the word for all of its stage, else by default.
    pub fn is_on(&self, name: &str) -> bool {
        let at = position(name);
        let all = match GATES[at].stage {
            Stage::Alpha => "AllAlpha",
            Stage::Beta => "AllBeta",
        };
        self.set[at].unwrap_or_else(|| match self.set[position(all)] {
            Some(on) if all != name => on,
            _ => GATES[at].default,
        })
    }

    /// Gates turned from their default, with what they are set to now.
    pub fn changed(&self) -> impl Iterator<Item = (&'static Gate, bool)> + '_ {
        GATES.iter().map(|gate| (gate, self.is_on(gate.name))).filter(|(gate, on)| *on != gate.default)
    }
}

fn position(name: &str) -> usize {
    GATES.iter().position(|gate| gate.name == name).expect("a gate is named by the table")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_read_in_etcds_words() {
        let read = |text: &str| Gates::default().read(text);
        assert_eq!(read("X=true"), Err("unrecognized feature gate: X".into()));
        assert_eq!(read("X"), Err("missing bool value for X".into()));
        assert_eq!(
            read("LeaseCheckpoint=xx"),
            Err("invalid value of LeaseCheckpoint=xx, err: strconv.ParseBool: parsing \"xx\": invalid syntax".into())
        );
        assert_eq!(read(""), Ok(()));
    }

    #[test]
    fn a_gates_own_word_wins_over_the_word_for_all() {
        let mut gates = Gates::default();
        gates.read("AllAlpha=true, LeaseCheckpoint = false").unwrap();
        assert!(
            gates.is_on("CompactHashCheck") && !gates.is_on("LeaseCheckpoint") && gates.is_on("FastLeaseKeepAlive")
        );
        gates.read("AllBeta=false").unwrap();
        assert!(!gates.is_on("FastLeaseKeepAlive"));
        assert!(GATES.is_sorted_by_key(|gate| gate.name));
    }
}
