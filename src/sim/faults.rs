//! What goes wrong, and when. Each fault has a number, and all that is drawn for it comes from the seed and that number: so one
//! can be left out, and those after it stay what they are.

use super::{Event, MS, TICK_US, World, network::Weather};
use crate::random::{Random, mix};

impl World {
    /// The next fault, and when the one after it comes.
    pub(super) fn next_fault(&mut self) {
        let number = self.faults_made;
        self.faults_made += 1;
        let mut random = Random(mix(self.seed ^ mix(number + 1)));
        let next = random.between(100 * MS, 2500 * MS);
        self.after(next, Event::Fault);
        if !self.plan.omitted.contains(&number) {
            self.make_fault(&mut random);
        }
    }

    fn make_fault(&mut self, random: &mut Random) {
        let member = random.below(self.members.len() as u64) as usize;
        let kind = random.below(27);
        self.trace(&[self.now, 5, member as u64, kind]);
        match kind {
            0..3 => {
                if self.members[member].core.is_some() {
                    self.fault("kill");
                    self.kill(member);
                    self.after(random.between(20 * MS, 6_000 * MS), Event::Start { member });
                }
            }
            3 => {
                self.fault("kill of all");
                for member in 0..self.members.len() {
                    self.kill(member);
                    self.after(random.between(20 * MS, 2_000 * MS), Event::Start { member });
                }
            }
            4 | 5 => self.stop_for_a_while(member, random),
            6 => {
                if let Some(leader) = self.leader() {
                    self.stop_for_a_while(leader, random);
                }
            }
            7 | 8 => {
                self.fault("partition");
                self.network.heal();
                let sides = random.draw();
                self.network.part(self.members.len(), |member| sides >> (member % 64) & 1 == 0);
            }
            9 => {
                if let Some(leader) = self.leader() {
                    self.fault("leader cut off");
                    self.network.part(self.members.len(), |member| member == leader);
                }
            }
            10 => {
                self.fault("one way cut");
                self.network.cut(member, random.below(self.members.len() as u64) as usize);
            }
            11 | 12 => self.network.heal(),
            13 => {
                self.fault("bad weather");
                let most_us = random.between(MS, 400 * MS);
                self.network.weather = Weather { lost_permille: random.below(300), least_us: 50, most_us };
            }
            14 => self.network.weather = Weather::FAIR,
            15 => {
                self.fault("slow disk");
                self.members[member].write_us = random.between(MS, 1_000 * MS);
            }
            16 => {
                self.fault("clock that drifts");
                let tick_us = random.between(TICK_US / 2, TICK_US * 2);
                self.ledger.clock_goes(tick_us);
                self.members[member].clock.set_pace(self.now, tick_us);
            }
            17 => {
                self.fault("write that fails");
                self.members[member].disk.fails = true;
            }
            18 => {
                self.fault("full disk");
                self.members[member].disk.full = true;
                self.after(random.between(500 * MS, 6_000 * MS), Event::Room { member });
            }
            19 => {
                self.fault("bit misread at a start");
                self.members[member].disk.misreads = true;
                self.kill(member);
                self.after(random.between(20 * MS, 2_000 * MS), Event::Start { member });
            }
            20 => {
                self.fault("wall clock set");
                let by_ms = random.between(1, 3_600_000) as i64;
                self.members[member].wall.shift_ms += if random.permille(500) { by_ms } else { -by_ms };
            }
            21 | 22 => {
                self.fault("start with the clock of the last start");
                self.kill(member);
                self.members[member].wall.begins_anew = true;
                self.after(random.between(20 * MS, 2_000 * MS), Event::Start { member });
            }
            _ if !self.may_break(member) => {}
            23 | 24 => {
                if self.members[member].flip(random) {
                    self.fault("bit flipped on the disk");
                }
            }
            25 => {
                self.fault("write that goes astray");
                self.members[member].disk.misdirects = true;
            }
            _ => {
                self.fault("disk lost");
                self.kill(member);
                self.members[member].gone = true;
            }
        }
        if random.permille(100) && self.runs(member) {
            self.fault("leader transfer");
            let to = self.members[random.below(self.members.len() as u64) as usize].id;
            self.members[member].core.as_mut().expect("it runs").transfer_leader(to);
            self.turn(member);
        }
    }

    fn stop_for_a_while(&mut self, member: usize, random: &mut Random) {
        if self.runs(member) {
            self.fault("stop for a while");
            self.members[member].still_until = self.now + random.between(50 * MS, 4_000 * MS);
        }
    }

    /// Whether something goes wrong now that often does: where it hurts most.
    pub(super) fn is_struck(&mut self, permille: u64) -> bool {
        let struck = self.random.permille(permille);
        struck && self.faulty && self.plan.ambushes
    }

    /// Raft promises to outlive the loss of a minority. A disk that loses or changes what was acknowledged counts as lost: its
    /// member has to be replaced.
    fn may_break(&self, member: usize) -> bool {
        self.plan.changes && self.operator.spares(self.members[member].id, &self.broken())
    }

    /// Members that have to be replaced.
    pub(super) fn broken(&self) -> Vec<u64> {
        let broken = self.members.iter().filter(|member| member.is_broken());
        broken.map(|member| member.id).collect()
    }

    pub(super) fn leader(&self) -> Option<usize> {
        (0..self.members.len()).find(|member| self.runs(*member) && self.members[*member].leads().is_some())
    }
}
