//! From a token to its user. Simple tokens live in this member's memory and die with it: a table that the raft core's
//! executor alone changes, as requests are applied, and that any shard reads without a lock. Signed tokens (`jwt`) carry
//! their user with them and nothing is kept. Time comes in. (etcd: auth/simple_token.go.)

use std::{
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwapOption;
use hashbrown::DefaultHashBuilder;

use super::{TokenChange, jwt::Jwt};
use crate::limits;

/// How a member makes and knows tokens (`--auth-token`).
pub enum Tokens {
    Simple(SimpleTokens),
    Signed(Box<Jwt>),
    /// Nobody gets one: users are known by certificates only.
    None,
}

impl Tokens {
    /// Reads the value of `--auth-token`. `read` gives the bytes of a file that it names.
    ///
    /// # Errors
    /// etcd's text, with what is wrong.
    pub fn from_option(
        option: &str,
        simple_ttl_ms: u64,
        read: &dyn Fn(&str) -> std::io::Result<Vec<u8>>,
    ) -> Result<Self, String> {
        let (kind, options) = option.split_once(',').unwrap_or((option, ""));
        let mut parsed: Vec<(&str, &str)> = Vec::new();
        for one in options.split(',').filter(|_| option.contains(',')) {
            let pair = one.split_once('=').filter(|(_, value)| !value.contains('='));
            let Some((name, value)) = pair else {
                return Err(format!("auth: invalid auth options: {one:?} is no name=value"));
            };
            if parsed.iter().any(|(known, _)| *known == name) {
                return Err(format!("auth: invalid auth options: {name} is given twice"));
            }
            parsed.push((name, value));
        }
        match kind {
            "simple" => Ok(Tokens::Simple(SimpleTokens::new(simple_ttl_ms))),
            "jwt" => Jwt::from_options(&parsed, read).map(|jwt| Tokens::Signed(Box::new(jwt))),
            "" => Ok(Tokens::None),
            other => Err(format!("auth: invalid auth options: {other:?} is neither simple nor jwt")),
        }
    }

    /// Takes over what requests that were applied do to tokens. By the raft core's executor only.
    pub fn change(&self, changes: &[TokenChange], now_ms: u64) {
        let Tokens::Simple(table) = self else { return };
        for change in changes {
            match change {
                // Without its random part a token could be guessed: it comes from a member that is set up otherwise.
                TokenChange::Minted { prefix, .. } if prefix.is_empty() => {}
                TokenChange::Minted { prefix, index, user } => table.mint(&simple_token(prefix, *index), user, now_ms),
                TokenChange::Dropped { user } => table.drop_user(user),
                TokenChange::Cleared => table.clear(),
            }
        }
    }

    /// Forgets some of those that have ended. By the raft core's executor only, ten times a second or so.
    pub fn sweep(&self, now_ms: u64) {
        if let Tokens::Simple(table) = self {
            table.sweep(now_ms);
        }
    }
}

/// A simple token as etcd spells it: letters that nobody can guess, and the index before that of the entry that made it, for
/// that is how far etcd has come while it applies one. Every member makes the same, etcd's among them.
pub fn simple_token(prefix: &str, index: u64) -> String {
    format!("{prefix}.{}", index.saturating_sub(1))
}

/// The index of the entry that a simple token says has made it.
pub fn made_at(token: &str) -> Option<u64> {
    let (_, before) = token.split_once('.')?;
    before.parse::<u64>().ok()?.checked_add(1)
}

/// The letters of a simple token, of random bytes. (etcd: sixteen of 52, each as likely as the others.)
///
/// # Errors
/// Those of `random`.
pub fn simple_prefix(mut random: impl FnMut(&mut [u8]) -> std::io::Result<()>) -> std::io::Result<String> {
    const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    // What is above the greatest multiple of 52 would make some letters likelier.
    const FAIR: u8 = (256 / 52 * 52) as u8;
    let mut prefix = String::with_capacity(16);
    while prefix.len() < 16 {
        let mut bytes = [0; 32];
        random(&mut bytes)?;
        let fair = bytes.iter().filter(|byte| **byte < FAIR).take(16 - prefix.len());
        prefix.extend(fair.map(|byte| char::from(LETTERS[usize::from(*byte % 52)])));
    }
    Ok(prefix)
}

struct Token {
    text: Box<str>,
    user: Arc<str>,
    ends_ms: AtomicU64,
}

/// The tokens of a bucket: replaced whole when one comes or goes, so that readers need no lock.
type Bucket = ArcSwapOption<Vec<Arc<Token>>>;

/// The table of simple tokens.
pub struct SimpleTokens {
    ttl_ms: u64,
    hasher: DefaultHashBuilder,
    buckets: Box<[Bucket]>,
    count: AtomicUsize,
    /// Where the next sweep goes on.
    next: AtomicUsize,
}

/// With as many tokens as there may be, each holds 256: what is copied when one of them comes or goes.
const BUCKETS: usize = 1024;
/// Sweeps that go once through all.
const SWEEPS: usize = 10;

impl SimpleTokens {
    pub fn new(ttl_ms: u64) -> Self {
        SimpleTokens {
            ttl_ms,
            hasher: DefaultHashBuilder::default(),
            buckets: (0..BUCKETS).map(|_| Bucket::empty()).collect(),
            count: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
        }
    }

    /// Whose a token is; None if it is nobody's, or no longer. Used, it lives on for its whole time.
    pub fn user(&self, token: &str, now_ms: u64) -> Option<Arc<str>> {
        let bucket = self.bucket(token).load();
        let token = bucket.as_ref()?.iter().find(|known| *known.text == *token)?;
        let ends_ms = token.ends_ms.load(Relaxed);
        if now_ms > ends_ms {
            return None;
        }
        // Moved on in steps, so that cores that use one token do not fight for it; the step is added to its life.
        let step_ms = (self.ttl_ms / 32).min(1000);
        let wanted = now_ms.saturating_add(self.ttl_ms);
        if wanted > ends_ms {
            token.ends_ms.store(wanted.saturating_add(step_ms), Relaxed);
        }
        Some(token.user.clone())
    }

    pub fn len(&self) -> usize {
        self.count.load(Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn bucket(&self, token: &str) -> &Bucket {
        &self.buckets[self.hasher.hash_one(token) as usize % BUCKETS]
    }

    fn mint(&self, token: &str, user: &str, now_ms: u64) {
        let bucket = self.bucket(token);
        let mut tokens = bucket.load().as_deref().cloned().unwrap_or_default();
        if self.len() >= limits::AUTH_TOKENS_MAX {
            // Whoever has not used its token for longest asks for another.
            let first = tokens.iter().enumerate().min_by_key(|(_, token)| token.ends_ms.load(Relaxed));
            if let Some((at, _)) = first {
                tokens.swap_remove(at);
                self.count.fetch_sub(1, Relaxed);
            }
        }
        let ends_ms = AtomicU64::new(now_ms.saturating_add(self.ttl_ms));
        tokens.push(Arc::new(Token { text: token.into(), user: user.into(), ends_ms }));
        self.count.fetch_add(1, Relaxed);
        bucket.store(Some(Arc::new(tokens)));
    }

    fn drop_user(&self, user: &str) {
        self.buckets.iter().for_each(|bucket| self.retain(bucket, |token| *token.user != *user));
    }

    fn clear(&self) {
        self.buckets.iter().for_each(|bucket| self.retain(bucket, |_| false));
    }

    fn sweep(&self, now_ms: u64) {
        if self.is_empty() {
            return;
        }
        for _ in 0..BUCKETS.div_ceil(SWEEPS) {
            let at = self.next.fetch_add(1, Relaxed) % BUCKETS;
            self.retain(&self.buckets[at], |token| token.ends_ms.load(Relaxed) >= now_ms);
        }
    }

    fn retain(&self, bucket: &Bucket, stays: impl Fn(&Token) -> bool) {
        let before = bucket.load();
        let Some(tokens) = before.as_deref().filter(|tokens| !tokens.iter().all(|token| stays(token))) else { return };
        let left: Vec<Arc<Token>> = tokens.iter().filter(|token| stays(token)).cloned().collect();
        self.count.fetch_sub(tokens.len() - left.len(), Relaxed);
        bucket.store((!left.is_empty()).then(|| Arc::new(left)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The token `abc.before`.
    fn minted(before: u64, user: &str) -> TokenChange {
        TokenChange::Minted { prefix: "abc".into(), index: before + 1, user: user.into() }
    }

    /// What the reference 3.7.3 server made of its log's ninth entry.
    #[test]
    fn a_token_names_the_entry_before_its_own() {
        assert_eq!(simple_token("jjbgmIAZdWHVWrjE", 9), "jjbgmIAZdWHVWrjE.8");
        assert_eq!(made_at("jjbgmIAZdWHVWrjE.8"), Some(9));
        for none in ["", "jjbgmIAZdWHVWrjE", "a.b", "a.1.2", "a.18446744073709551615", "a.-1"] {
            assert_eq!(made_at(none), None, "{none}");
        }
    }

    fn simple(ttl_ms: u64) -> Tokens {
        Tokens::Simple(SimpleTokens::new(ttl_ms))
    }

    fn user(tokens: &Tokens, token: &str, now_ms: u64) -> Option<String> {
        let Tokens::Simple(table) = tokens else { panic!() };
        table.user(token, now_ms).map(|user| user.to_string())
    }

    #[test]
    fn a_token_lives_as_long_as_it_is_used() {
        let tokens = simple(2000);
        tokens.change(&[minted(7, "ann")], 0);
        assert_eq!(user(&tokens, "abc.7", 2000).as_deref(), Some("ann"));
        assert_eq!(user(&tokens, "abc.8", 2000), None);
        assert_eq!(user(&tokens, "", 2000), None);
        assert_eq!(user(&tokens, "abc.7", 4000).as_deref(), Some("ann"), "used at 2000");
        assert_eq!(user(&tokens, "abc.7", 6100), None, "unused for longer than it lives");
        (0..SWEEPS).for_each(|_| tokens.sweep(6100));
        let Tokens::Simple(table) = &tokens else { panic!() };
        assert!(table.is_empty());
    }

    #[test]
    fn tokens_go_with_their_user_and_with_everything() {
        let tokens = simple(1000);
        let all: Vec<TokenChange> = (0..3000).map(|index| minted(index, ["ann", "ben"][index as usize % 2])).collect();
        tokens.change(&all, 0);
        tokens.change(&[TokenChange::Dropped { user: "ben".into() }], 0);
        for index in 0..3000 {
            let wanted = (index % 2 == 0).then_some("ann");
            assert_eq!(user(&tokens, &format!("abc.{index}"), 1).as_deref(), wanted);
        }
        tokens.change(&[TokenChange::Cleared], 0);
        assert_eq!(user(&tokens, "abc.0", 1), None);
        let Tokens::Simple(table) = &tokens else { panic!() };
        assert!(table.is_empty());
    }

    #[test]
    fn one_without_a_random_part_is_not_kept() {
        let tokens = simple(1000);
        tokens.change(&[TokenChange::Minted { prefix: String::new(), index: 8, user: "root".into() }], 0);
        assert_eq!(user(&tokens, ".7", 0), None);
    }

    #[test]
    fn prefixes_are_letters_all_as_likely() {
        let mut state = 1u64;
        let mut counts = [0usize; 256];
        for _ in 0..5200 {
            let prefix = simple_prefix(|bytes| {
                for byte in bytes {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    *byte = (state >> 56) as u8;
                }
                Ok(())
            })
            .unwrap();
            assert_eq!(prefix.len(), 16);
            prefix.bytes().for_each(|letter| counts[usize::from(letter)] += 1);
        }
        let used: Vec<usize> = counts.into_iter().filter(|count| *count > 0).collect();
        assert_eq!(used.len(), 52);
        // 1,600 each, with a deviation of 40.
        assert!(used.iter().all(|count| (1400..1800).contains(count)), "{used:?}");
    }

    #[test]
    fn options_are_read_as_etcd_reads_them() {
        let of = |option: &str| match Tokens::from_option(option, 1, &|_| unreachable!("no file is named")) {
            Ok(Tokens::Simple(_)) => "simple".to_owned(),
            Ok(Tokens::Signed(_)) => "jwt".to_owned(),
            Ok(Tokens::None) => "none".to_owned(),
            Err(cause) => cause,
        };
        assert_eq!(of("simple"), "simple");
        assert_eq!(of("simple,ignored=1"), "simple");
        assert_eq!(of(""), "none");
        for wrong in ["complex", "simple,", "simple,a", "simple,a=b=c", "jwt,ttl=1,ttl=2"] {
            assert!(of(wrong).starts_with("auth: invalid auth options: "), "{wrong}: {}", of(wrong));
        }
        for wrong in ["jwt", "jwt,sign-method=none"] {
            assert!(of(wrong).starts_with("auth: invalid auth signature method: "), "{wrong}: {}", of(wrong));
        }
    }
}
