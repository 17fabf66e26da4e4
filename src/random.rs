//! Numbers that have to look unrelated and be the same for the same seed; nothing that must not be guessed. SplitMix64 (Steele,
//! Lea, Flood: "Fast splittable pseudorandom number generators", 2014). And one that is new each time.

use std::{fs::File, io, io::Read as _};

const INCREMENT: u64 = 0x9e37_79b9_7f4a_7c15;

fn finalized(mut z: u64) -> u64 {
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// A number for a number: unrelated ones for neighbours.
pub fn mix(number: u64) -> u64 {
    finalized(number.wrapping_mul(INCREMENT))
}

/// A sequence, from a seed.
#[derive(Clone, Debug, Default)]
pub struct Random(pub u64);

impl Random {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(INCREMENT);
        finalized(self.0)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    pub fn between(&mut self, least: u64, bound: u64) -> u64 {
        least + self.below(bound - least)
    }

    /// True so many times in a thousand.
    pub fn permille(&mut self, times: u64) -> bool {
        self.below(1000) < times
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.draw().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// A number that nobody can foresee, of the system's.
///
/// # Errors
/// Where the system has none to give.
pub fn unforeseen() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first numbers of the authors' own program, from the seed 1234567.
    #[test]
    fn the_sequence_is_the_published_one() {
        let mut random = Random(1_234_567);
        let wanted = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!(wanted.map(|_| random.draw()), wanted);
    }
}
