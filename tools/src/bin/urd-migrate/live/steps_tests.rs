//! The steps over a model of a cluster: every step is done by it as members do it, or refused, or not heard of; runs end after
//! any step, and others begin; leaders change, members are slow. However it goes, the end is the same, and on the way no vote
//! is given to who has not caught up, nobody leaves before the data were compared, and more than half of the voters are up.

use proptest::prelude::*;

use super::*;

fn plan(count: usize) -> Plan {
    let words: Vec<String> = (1..=count).map(|at| format!("m{at}=u{at} http://u{at}:2380 http://u{at}:2379")).collect();
    Plan::read(None, &words).unwrap()
}

fn member(id: u64, name: &str) -> Member {
    let answer = Answer { leader: 1, committed: 100, applied: 100, ..Answer::default() };
    Member {
        id,
        name: name.into(),
        peer_urls: vec![format!("http://{name}:2380")],
        client_urls: vec![format!("http://{name}:2379")],
        is_learner: false,
        answer: Ok(answer),
    }
}

fn facts(names: &[&str]) -> Facts {
    Facts { members: names.iter().zip(1..).map(|(name, id)| member(id, name)).collect() }
}

/// What happens to a step, and after it.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Done,
    /// Done, and the answer is lost.
    Unheard,
    Refused,
    /// Done, and the run ends right after it.
    Ended,
    /// Another member leads meanwhile.
    Elected(u8),
    /// A member does not answer for a while.
    Away(u8),
}

struct Model {
    facts: Facts,
    next_id: u64,
    /// Started processes, by id.
    running: BTreeSet<u64>,
    away: Option<(u64, u32)>,
    /// How far each learner is; 3: in sync.
    progress: u64,
    leader: u64,
    stopped: Vec<String>,
}

impl Model {
    fn new(count: usize) -> Model {
        let names: Vec<String> = (1..=count).map(|at| format!("m{at}")).collect();
        let facts = facts(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let running = facts.members.iter().map(|member| member.id).collect();
        Model { facts, next_id: 100, running, away: None, progress: 0, leader: 1, stopped: Vec::new() }
    }

    /// What a look tells.
    fn look(&mut self) -> Facts {
        if let Some((_, rest)) = &mut self.away {
            *rest -= 1;
            if *rest == 0 {
                self.away = None;
            }
        }
        let mut facts = self.facts.clone();
        for member in &mut facts.members {
            let is_up = self.running.contains(&member.id) && self.away.is_none_or(|(away, _)| away != member.id);
            let applied = if member.is_learner { self.progress } else { 100 };
            member.answer = match is_up {
                true => Ok(Answer { leader: self.leader, committed: 100, applied, ..Answer::default() }),
                false => Err("connection refused".into()),
            };
        }
        facts
    }

    fn name_of(&self, id: u64) -> &str {
        &self.facts.members.iter().find(|member| member.id == id).unwrap().name
    }

    /// More than half of those with a vote are up, whoever is away.
    fn check(&self) {
        let voters: Vec<u64> = self.facts.voters().map(|voter| voter.id).collect();
        let up = voters.iter().filter(|id| self.running.contains(id)).count();
        assert!(up > voters.len() / 2, "{up} of {voters:?} are up");
        assert!(self.facts.members.iter().filter(|member| member.is_learner).count() <= 1);
        assert!(voters.contains(&self.leader), "the leader has gone");
    }

    fn elect(&mut self, draw: u8) {
        let voters: Vec<u64> = self.facts.voters().map(|voter| voter.id).collect();
        self.leader = voters[draw as usize % voters.len()];
    }

    /// What the step changes; as members would refuse, this panics.
    fn apply(&mut self, plan: &Plan, step: &Step, memory: &mut Memory) {
        match step {
            Step::Add(at) => {
                let urls = plan.0[*at].peer_urls.clone();
                assert!(self.facts.members.iter().all(|member| member.peer_urls != urls), "Peer URLs already exists");
                let mut learner = member(self.next_id, "");
                learner.peer_urls = urls;
                learner.is_learner = true;
                self.facts.members.push(learner);
                self.next_id += 1;
                self.progress = 0;
            }
            Step::Start(at) => {
                let one = &plan.0[*at];
                let new = self.facts.members.iter_mut().find(|member| member.peer_urls == one.peer_urls).unwrap();
                new.name.clone_from(&one.new);
                self.running.insert(new.id);
                memory.started = Some(new.id);
            }
            Step::AwaitStart(_) | Step::Settle(..) => {}
            Step::CatchUp(at) => {
                self.progress += 40;
                if self.progress >= 100 {
                    memory.caught_up = self.facts.new_of(&plan.0[*at]).map(|new| new.id);
                }
            }
            Step::Promote(at) => {
                assert!(self.progress >= 100, "not in sync");
                let urls = &plan.0[*at].peer_urls;
                let new = self.facts.members.iter_mut().find(|member| member.peer_urls == *urls).unwrap();
                assert!(new.is_learner, "can only promote a learner");
                new.is_learner = false;
            }
            Step::Compare(at) => memory.compared = self.facts.new_of(&plan.0[*at]).map(|new| new.id),
            Step::HandOver { to, .. } => {
                assert!(self.facts.voters().any(|voter| voter.id == *to));
                self.leader = *to;
            }
            Step::Remove(at) => {
                let one = &plan.0[*at];
                let (old, new) = (self.facts.old_of(one).unwrap().id, self.facts.new_of(one).unwrap().id);
                assert_eq!(memory.compared, Some(new), "the data were not compared");
                if self.leader == old {
                    // It came to lead since it was looked at: the members elect another.
                    self.leader = new;
                }
                self.facts.members.retain(|member| member.id != old);
                self.running.remove(&old);
            }
            Step::Stop(at) => {
                self.stopped.push(plan.0[*at].old.clone());
                memory.stopped.insert(*at);
            }
            Step::Done => {}
        }
        self.check();
    }
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Done),
        1 => Just(Fate::Unheard),
        1 => Just(Fate::Refused),
        2 => Just(Fate::Ended),
        1 => any::<u8>().prop_map(Fate::Elected),
        1 => any::<u8>().prop_map(Fate::Away),
    ]
}

/// Runs until it is done, one fate a step and good luck after them.
fn go(count: usize, replaced: usize, fates: &[Fate]) -> Model {
    let plan = plan(replaced);
    let mut model = Model::new(count);
    let mut facts = model.look();
    let mut memory = Memory::at_start(&plan, &facts);
    for turn in 0..1000 {
        let step = next(&plan, &facts, &memory).unwrap();
        let fate = fates.get(turn).copied().unwrap_or(Fate::Done);
        if let Step::Remove(at) | Step::HandOver { at, .. } = step {
            assert!(memory.compared == facts.new_of(&plan.0[at]).map(|new| new.id));
        }
        match (fate, &step) {
            (_, Step::Done) => return model,
            (Fate::Refused, _) => {}
            // What this run has seen is lost with the answer, or with the run.
            (Fate::Unheard, _) => model.apply(&plan, &step, &mut memory.clone()),
            (_, step) => model.apply(&plan, step, &mut memory),
        }
        match fate {
            Fate::Elected(draw) => model.elect(draw),
            Fate::Away(draw) => {
                let running: Vec<u64> = model.running.iter().copied().collect();
                model.away = Some((running[draw as usize % running.len()], 3));
            }
            _ => {}
        }
        facts = model.look();
        if matches!(fate, Fate::Ended) {
            memory = Memory::at_start(&plan, &facts);
        }
    }
    panic!("it does not come to an end: {}", state_of(&plan, &facts));
}

fn check_end(model: &Model, count: usize, replaced: usize) {
    let names: BTreeSet<&str> = model.facts.voters().map(|voter| model.name_of(voter.id)).collect();
    let wanted: BTreeSet<String> =
        (1..=count).map(|at| if at <= replaced { format!("u{at}") } else { format!("m{at}") }).collect();
    assert_eq!(names, wanted.iter().map(String::as_str).collect());
    assert_eq!(model.facts.members.len(), count);
    // Each was told to stop once it was none any more, perhaps twice.
    let stopped: BTreeSet<&str> = model.stopped.iter().map(String::as_str).collect();
    assert_eq!(stopped.len(), replaced, "{stopped:?}");
}

#[test]
fn undisturbed_it_takes_these_steps() {
    let plan = plan(2);
    let mut model = Model::new(3);
    let mut memory = Memory::default();
    let mut taken = Vec::new();
    loop {
        let facts = model.look();
        let step = next(&plan, &facts, &memory).unwrap();
        if step == Step::Done {
            break;
        }
        model.apply(&plan, &step, &mut memory);
        taken.push(step);
    }
    let of = |at| {
        let catch_up = std::iter::repeat_with(move || Step::CatchUp(at)).take(3);
        let hand_over = (at == 0).then_some(Step::HandOver { at, to: 3 });
        [Step::Add(at), Step::Start(at)]
            .into_iter()
            .chain(catch_up)
            .chain([Step::Promote(at), Step::Compare(at)])
            .chain(hand_over)
            .chain([Step::Remove(at), Step::Stop(at)])
    };
    assert_eq!(taken, of(0).chain(of(1)).collect::<Vec<_>>());
}

#[test]
fn ended_after_any_step_it_comes_to_the_same_end() {
    for count in 1..=5 {
        for at in 0..60 {
            let mut fates = vec![Fate::Done; at];
            fates.push(Fate::Ended);
            check_end(&go(count, count, &fates), count, count);
        }
    }
}

proptest! {
    #[test]
    fn whatever_comes_between_the_end_is_the_same(
        count in 1..6usize,
        fates in proptest::collection::vec(fate(), 0..120),
        left in 0..3usize,
    ) {
        let replaced = count.saturating_sub(left).max(1);
        check_end(&go(count, replaced, &fates), count, replaced);
    }
}

#[test]
fn nothing_is_begun_while_something_is_wrong() {
    let plan = plan(1);
    let step = |facts: &Facts| next(&plan, facts, &Memory::default()).unwrap();
    let whole = facts(&["m1", "m2", "m3"]);
    assert_eq!(step(&whole), Step::Add(0));
    let spoil = |spoil: fn(&mut Answer)| {
        let mut facts = whole.clone();
        spoil(facts.members[2].answer.as_mut().unwrap());
        step(&facts)
    };
    let settles = |step: Step, wanted: &str| match step {
        Step::Settle(0, why) => assert!(why.contains(wanted), "{why}"),
        other => panic!("{other:?}"),
    };
    settles(spoil(|answer| answer.leader = 0), "m3 (3) knows of no leader");
    settles(spoil(|answer| answer.leader = 2), "do not agree on who leads");
    settles(spoil(|answer| answer.alarms.push("memberID:3 alarm:NOSPACE ".into())), "NOSPACE");
    settles(spoil(|answer| answer.committed = 100 + LAG_ENTRIES_MAX + 1), "m1 (1) is 5001 entries behind");
    let mut facts = whole.clone();
    facts.members[1].answer = Err("connection refused".into());
    settles(step(&facts), "m2 (2) does not answer: connection refused");
}

#[test]
fn an_old_member_that_is_down_is_removed_all_the_same_and_no_other() {
    let plan = plan(1);
    let mut facts = facts(&["m1", "m2", "m3", "u1"]);
    for member in &mut facts.members {
        member.answer.as_mut().unwrap().leader = 2;
    }
    facts.members[0].answer = Err("connection refused".into());
    let memory = Memory { compared: Some(4), ..Memory::default() };
    assert_eq!(next(&plan, &facts, &memory).unwrap(), Step::Remove(0));
    facts.members[2].answer = Err("connection refused".into());
    assert!(matches!(next(&plan, &facts, &memory).unwrap(), Step::Settle(..)));
}

#[test]
fn the_leadership_goes_to_who_stays() {
    let plan = plan(3);
    let facts = facts(&["m1", "m2", "m3", "u1"]);
    let memory = Memory { compared: Some(4), ..Memory::default() };
    assert_eq!(next(&plan, &facts, &memory).unwrap(), Step::HandOver { at: 0, to: 4 });
}

#[test]
fn a_plan_of_another_cluster_is_refused() {
    let plan = plan(1);
    let refused = |facts: &Facts| next(&plan, facts, &Memory::default()).unwrap_err();
    assert!(refused(&facts(&["a", "b"])).contains("neither m1 nor u1 is a member"));
    let mut other = facts(&["m1", "u2"]);
    other.members[1].peer_urls = vec!["http://u1:2380".into()];
    assert!(refused(&other).contains("u2 (2) has the peer URLs that the plan gives to u1"));
    let mut other = facts(&["m1", "u1"]);
    other.members[1].peer_urls = vec!["http://elsewhere:2380".into()];
    assert!(refused(&other).contains("u1 (2) is a member already"));
}

#[test]
fn where_it_stands_is_told() {
    let plan = plan(3);
    let mut facts = facts(&["u1", "m2", "m3", "u2"]);
    facts.members[3].is_learner = true;
    let wanted = "m1 → u1: done; m2 → u2: u2 is a learner, without a vote, m2 is still a member; m3 → u3: not begun";
    assert_eq!(state_of(&plan, &facts), wanted);
}
