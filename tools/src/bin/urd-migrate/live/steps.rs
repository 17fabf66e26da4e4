//! Which step is next, from what the cluster says of itself, the plan, and what this run has seen. Nothing is kept between runs:
//! whoever is interrupted after any step finds in the members alone where to go on. A run that begins anew compares the data
//! anew before it removes anybody.

use std::collections::BTreeSet;

use super::plan::{Plan, Replacement};

/// Entries that a healthy member may be behind.
pub const LAG_ENTRIES_MAX: u64 = 5_000;

/// The cluster, as its members tell.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub members: Vec<Member>,
}

#[derive(Clone, Debug)]
pub struct Member {
    pub id: u64,
    /// Empty until it has started.
    pub name: String,
    pub peer_urls: Vec<String>,
    pub client_urls: Vec<String>,
    pub is_learner: bool,
    /// Or why there is none.
    pub answer: Result<Answer, String>,
}

/// What a member says of itself.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub url: String,
    pub version: String,
    pub storage_version: String,
    pub downgrade: Option<String>,
    /// 0: it knows of none.
    pub leader: u64,
    pub committed: u64,
    pub applied: u64,
    pub db_bytes: u64,
    pub quota_bytes: u64,
    pub alarms: Vec<String>,
}

impl Member {
    pub fn shown(&self) -> String {
        let name = if self.name.is_empty() { "a member that has not started" } else { &self.name };
        format!("{name} ({:x})", self.id)
    }
}

impl Facts {
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| !member.is_learner)
    }

    pub fn get(&self, id: u64) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    /// Where all that answer agree on one.
    pub fn leader(&self) -> Option<&Member> {
        let mut told = self.voters().filter_map(|voter| Some(voter.answer.as_ref().ok()?.leader));
        let first = told.next()?;
        told.all(|leader| leader == first).then(|| self.get(first)).flatten()
    }

    pub fn new_of(&self, replacement: &Replacement) -> Option<&Member> {
        self.members.iter().find(|member| member.peer_urls == replacement.peer_urls)
    }

    pub fn old_of(&self, replacement: &Replacement) -> Option<&Member> {
        self.members.iter().find(|member| member.name == replacement.old && member.peer_urls != replacement.peer_urls)
    }

    /// Whether every voter but `but` answers, follows one leader, is not behind, and nobody has raised an alarm.
    ///
    /// # Errors
    /// What is not so.
    pub fn settled(&self, but: Option<u64>) -> Result<(), String> {
        let mut farthest = 0;
        let mut answers = Vec::new();
        for voter in self.voters().filter(|voter| Some(voter.id) != but) {
            match &voter.answer {
                Ok(answer) => {
                    farthest = farthest.max(answer.committed);
                    answers.push((voter, answer));
                }
                Err(cause) => return Err(format!("{} does not answer: {cause}", voter.shown())),
            }
        }
        for (voter, answer) in &answers {
            if answer.leader == 0 {
                return Err(format!("{} knows of no leader", voter.shown()));
            }
            if answer.leader != answers[0].1.leader {
                return Err("the members do not agree on who leads".into());
            }
            if let Some(alarm) = answer.alarms.first() {
                return Err(format!("{} tells of an alarm: {alarm}", voter.shown()));
            }
            if answer.applied + LAG_ENTRIES_MAX < farthest {
                let behind = farthest - answer.applied;
                return Err(format!("{} is {behind} entries behind", voter.shown()));
            }
        }
        match answers.first() {
            Some((_, answer)) if self.voters().all(|voter| voter.id != answer.leader) => {
                Err("the leader is none of the voting members".into())
            }
            Some(_) => Ok(()),
            None => Err("no voting member answers".into()),
        }
    }
}

/// What this run has seen, and the cluster does not say.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// The member that was last told to start.
    pub started: Option<u64>,
    /// The learner that has what the others had.
    pub caught_up: Option<u64>,
    /// The new voter that was found to hold what the others hold.
    pub compared: Option<u64>,
    /// Replacements whose old member has been told to stop.
    pub stopped: BTreeSet<usize>,
}

impl Memory {
    /// At the start of a run. Whether the old member of the last replacement that is done was told to stop nobody knows: it
    /// is told again.
    pub fn at_start(plan: &Plan, facts: &Facts) -> Memory {
        let done: Vec<usize> = (0..plan.0.len()).filter(|at| is_done(&plan.0[*at], facts)).collect();
        let stopped = done.iter().rev().skip(1).copied().collect();
        Memory { stopped, ..Memory::default() }
    }
}

/// Only the new one is there, and it votes.
pub fn is_done(replacement: &Replacement, facts: &Facts) -> bool {
    let new = facts.new_of(replacement);
    facts.old_of(replacement).is_none() && new.is_some_and(|new| !new.is_learner && !new.name.is_empty())
}

/// Each with the number of its replacement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Tell the cluster of the new one, as a learner.
    Add(usize),
    /// Have the new one started.
    Start(usize),
    AwaitStart(usize),
    CatchUp(usize),
    Promote(usize),
    Compare(usize),
    /// The old one leads; a member that stays is to.
    HandOver {
        at: usize,
        to: u64,
    },
    Remove(usize),
    /// Have the old one, which is no member any more, stopped.
    Stop(usize),
    /// Nothing is done until this is over.
    Settle(usize, String),
    Done,
}

impl Step {
    pub fn at(&self) -> Option<usize> {
        match self {
            Step::Add(at)
            | Step::Start(at)
            | Step::AwaitStart(at)
            | Step::CatchUp(at)
            | Step::Promote(at)
            | Step::Compare(at)
            | Step::HandOver { at, .. }
            | Step::Remove(at)
            | Step::Stop(at)
            | Step::Settle(at, _) => Some(*at),
            Step::Done => None,
        }
    }

    /// How many of a replacement's `PHASES` are behind it.
    pub fn phase(&self) -> u64 {
        match self {
            Step::Settle(..) | Step::Add(_) | Step::Done => 0,
            Step::Start(_) | Step::AwaitStart(_) => 1,
            Step::CatchUp(_) => 2,
            Step::Promote(_) => 3,
            Step::Compare(_) => 4,
            Step::HandOver { .. } | Step::Remove(_) => 5,
            Step::Stop(_) => 6,
        }
    }
}

pub const PHASES: u64 = 7;

/// # Errors
/// Where the cluster and the plan do not fit together, so that no step is right.
pub fn next(plan: &Plan, facts: &Facts, memory: &Memory) -> Result<Step, String> {
    for (at, replacement) in plan.0.iter().enumerate() {
        let (old, new) = (facts.old_of(replacement), facts.new_of(replacement));
        let unless_settled = |but: Option<u64>, step: Step| match facts.settled(but) {
            Ok(()) => step,
            Err(why) => Step::Settle(at, why),
        };
        let Some(new) = new else {
            if old.is_none() {
                return Err(format!(
                    "neither {} nor {} is a member: the plan is of another cluster, or somebody has changed this one",
                    replacement.old, replacement.new
                ));
            }
            if let Some(taken) = facts.members.iter().find(|member| member.name == replacement.new) {
                return Err(format!(
                    "{} is a member already, with other peer URLs than the plan says ({})",
                    taken.shown(),
                    taken.peer_urls.join(",")
                ));
            }
            return Ok(unless_settled(None, Step::Add(at)));
        };
        if !new.name.is_empty() && new.name != replacement.new {
            return Err(format!(
                "{} has the peer URLs that the plan gives to {}: a new member runs beside the old one for a while, and needs \
                 URLs of its own; or it was started under another name",
                new.shown(),
                replacement.new
            ));
        }
        if is_done(replacement, facts) {
            if memory.stopped.contains(&at) {
                continue;
            }
            return Ok(Step::Stop(at));
        }
        if new.name.is_empty() || new.answer.is_err() {
            let is_told = memory.started == Some(new.id);
            return Ok(if is_told { Step::AwaitStart(at) } else { Step::Start(at) });
        }
        if new.is_learner {
            let is_ready = memory.caught_up == Some(new.id);
            return Ok(if is_ready { unless_settled(None, Step::Promote(at)) } else { Step::CatchUp(at) });
        }
        // It votes, and the old one is there yet, well or not: it leaves in any case.
        let old = old.expect("a replacement that is not done, its new member votes");
        return Ok(match facts.settled(Some(old.id)) {
            Err(why) => Step::Settle(at, why),
            Ok(()) if memory.compared != Some(new.id) => Step::Compare(at),
            Ok(()) if leads(facts, old.id) => match heir(plan, facts, old.id) {
                Some(to) => Step::HandOver { at, to },
                None => Step::Settle(at, "there is no member that could lead instead".into()),
            },
            Ok(()) => Step::Remove(at),
        });
    }
    let last = plan.0.len() - 1;
    Ok(match facts.settled(None) {
        Ok(()) => Step::Done,
        Err(why) => Step::Settle(last, why),
    })
}

fn leads(facts: &Facts, id: u64) -> bool {
    facts.voters().any(|voter| voter.answer.as_ref().is_ok_and(|answer| answer.leader == id))
}

/// A voter that stays, those first that the plan will not take away, so that the leadership moves once.
fn heir(plan: &Plan, facts: &Facts, old: u64) -> Option<u64> {
    let stays = |member: &&Member| plan.0.iter().all(|replacement| replacement.old != member.name);
    let mut others: Vec<&Member> = facts.voters().filter(|voter| voter.id != old && voter.answer.is_ok()).collect();
    others.sort_by_key(|member| (!stays(member), member.id));
    others.first().map(|member| member.id)
}

/// Where each replacement stands, in words, for whoever is left alone with it.
pub fn state_of(plan: &Plan, facts: &Facts) -> String {
    let one = |replacement: &Replacement| {
        let new = facts.new_of(replacement).filter(|new| new.name.is_empty() || new.name == replacement.new);
        let old = facts.old_of(replacement);
        let of_new = match new {
            None => "is not a member yet",
            Some(new) if new.name.is_empty() => "is a member without a vote, and has not started",
            Some(new) if new.is_learner => "is a learner, without a vote",
            Some(_) => "is a member with a vote",
        };
        match (old, new) {
            (Some(_), None) => format!("{replacement}: not begun"),
            (None, Some(_)) if is_done(replacement, facts) => format!("{replacement}: done"),
            (old, _) => format!(
                "{replacement}: {} {of_new}, {} {}",
                replacement.new,
                replacement.old,
                if old.is_some() { "is still a member" } else { "is none any more" }
            ),
        }
    };
    plan.0.iter().map(one).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
#[path = "steps_tests.rs"]
mod tests;
