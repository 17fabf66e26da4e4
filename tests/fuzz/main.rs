//! Replays what the fuzzer has found worth keeping (`fuzz/`): inputs that once broke something, and for each target a
//! corpus that reaches most of its code. Then mutates them blindly for a while, as a fuzzer without eyes:
//! `URD_FUZZ_SECONDS` for each target (2). Writes seeds of the corpus from the samples of the formats and from requests, with
//! `URD_FUZZ_SEEDS=directory`.

mod seeds;
mod targets;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use seeds::seeds;
use targets::TARGETS;

fn corpus(target: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target)
}

#[test]
fn what_the_fuzzer_has_kept_goes_through() {
    let mut told = Vec::new();
    for (name, target) in TARGETS {
        let mut inputs = 0;
        for entry in fs::read_dir(corpus(name)).unwrap_or_else(|cause| panic!("no corpus of {name}: {cause}")) {
            let path = entry.unwrap().path();
            // Tells which it was, if it is the last line.
            println!("{}", path.display());
            target(&fs::read(path).unwrap());
            inputs += 1;
        }
        assert!(inputs > 0, "no inputs of {name}");
        told.push(format!("{name} {inputs}"));
    }
    println!("replayed: {}", told.join(", "));
}

#[test]
fn seeds_and_what_becomes_of_them_go_through() {
    let seconds = std::env::var("URD_FUZZ_SECONDS").ok().map_or(2, |text| text.parse().expect("a number of seconds"));
    for (name, seeds) in seeds() {
        let target = TARGETS.iter().find(|(target, _)| *target == name).unwrap().1;
        for (at, input) in seeds.iter().enumerate() {
            target(input);
            if let Some(to) = std::env::var_os("URD_FUZZ_SEEDS") {
                let dir = Path::new(&to).join(name);
                fs::create_dir_all(&dir).unwrap();
                fs::write(dir.join(format!("seed-{at}")), input).unwrap();
            }
        }
        let mut random = Random(urd::random::Random(1));
        let (begin, mut executions) = (Instant::now(), 0u64);
        while begin.elapsed() < Duration::from_secs(seconds) {
            let input = mutated(&seeds, &mut random);
            // What breaks it is the file to look at.
            let last = std::env::temp_dir().join(format!("urd-fuzz-{name}-{}", std::process::id()));
            let sound = std::panic::catch_unwind(|| target(&input));
            if let Err(panic) = sound {
                fs::write(&last, &input).unwrap();
                eprintln!("{name}: the input is in {}", last.display());
                std::panic::resume_unwind(panic);
            }
            executions += 1;
        }
        println!("{name}: {} seeds, {executions} mutations of them", seeds.len());
    }
}

struct Random(urd::random::Random);

impl Random {
    /// 0 for a bound of 0.
    fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound.max(1) as u64) as usize
    }
}

/// A seed with a few things done to it: bytes changed, cut out, put in, repeated, or the end of another.
fn mutated(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = seeds[random.below(seeds.len())].clone();
    for _ in 0..1 + random.below(6) {
        let at = random.below(input.len());
        let to = at + random.below((input.len() - at).min(40));
        match random.below(8) {
            0 | 1 => input.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
            2 => input.iter_mut().skip(at).take(1).for_each(|byte| *byte = [0, 1, 0x7f, 0x80, 0xff][random.below(5)]),
            3 => input.truncate(at),
            4 => drop(input.drain(at..to)),
            5 => {
                let piece = input[at..to].to_vec();
                (0..1 + random.below(20)).for_each(|_| drop(input.splice(at..at, piece.iter().copied())));
            }
            6 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => input.insert(at, random.below(256) as u8),
        }
    }
    input.truncate(16_384);
    input
}
