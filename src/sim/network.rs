//! Ways between members: each message takes its time, may be lost or come late, and a way may be cut, in one direction too.
//! Nothing is doubled: members speak over TCP, and no request is sent again.

use std::collections::BTreeSet;

use crate::random::Random;

/// How bad the ways are.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub lost_permille: u64,
    pub least_us: u64,
    pub most_us: u64,
}

impl Weather {
    pub const FAIR: Weather = Weather { lost_permille: 0, least_us: 50, most_us: 400 };
}

pub struct Network {
    pub weather: Weather,
    /// From whom to whom nothing comes through.
    cut: BTreeSet<(usize, usize)>,
}

impl Network {
    pub fn new() -> Self {
        Network { weather: Weather::FAIR, cut: BTreeSet::new() }
    }

    /// When a message arrives, in microseconds from now; None if it is lost.
    pub fn carry(&self, random: &mut Random) -> Option<u64> {
        let Weather { lost_permille, least_us, most_us } = self.weather;
        (!random.permille(lost_permille)).then(|| random.between(least_us, most_us))
    }

    pub fn is_open(&self, from: usize, to: usize) -> bool {
        !self.cut.contains(&(from, to))
    }

    pub fn cut(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    /// Nothing goes between the two sides; `side` says who is on one of them.
    pub fn part(&mut self, members: usize, side: impl Fn(usize) -> bool) {
        for from in 0..members {
            for to in (0..members).filter(|to| side(from) != side(*to)) {
                self.cut(from, to);
            }
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }
}
