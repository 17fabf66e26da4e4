//! Targets for what operators write and what callers show: settings, and tokens with the keys that they are signed by.

use std::{collections::HashMap, ffi::OsString, fs, io};

use sha2::{Digest, Sha256};
use urd::{
    auth::{
        TokenChange, base64,
        jwt::{Claims, Jwt},
        password,
        tokens::{Tokens, simple_token},
    },
    config::{Config, ConfigError, Parsed},
};

// ---- settings ----

/// A command line and variables, a line each, variables by their names; with the lowest bit of the first byte set, a
/// configuration file. What is accepted keeps to its bounds. What flags say, variables say as well.
pub fn config(input: &[u8]) {
    let Some((how, rest)) = input.split_first() else { return };
    if how & 1 != 0 {
        thread_local! {
            static FILE: tempfile::NamedTempFile =
                tempfile::NamedTempFile::new_in("/dev/shm").or_else(|_| tempfile::NamedTempFile::new()).expect("a file");
        }
        return FILE.with(|file| {
            fs::write(file.path(), rest).expect("a file in memory");
            match parse(&[format!("--config-file={}", file.path().display())], &[]) {
                Ok(Parsed::Run(config)) => check_config(&config),
                Ok(other) => panic!("a file asks for nothing else: {other:?}"),
                Err(error) => assert!(!error.message.is_empty() && error.exit_code() == 1, "{error:?}"),
            }
        });
    }
    let text = String::from_utf8_lossy(rest);
    // Which file is read is not for an input to say.
    if text.to_ascii_lowercase().replace('_', "-").contains("config-file") {
        return;
    }
    let (mut words, mut variables) = (Vec::new(), Vec::new());
    for line in text.lines() {
        match line.split_once('=').filter(|(name, _)| name.starts_with("ETCD_")) {
            Some((name, value)) => variables.push((name.to_owned(), value.to_owned())),
            None => words.push(line.to_owned()),
        }
    }
    let parsed = parse(&words, &variables);
    match &parsed {
        Ok(Parsed::Run(config)) => check_config(config),
        Ok(Parsed::Help | Parsed::Version) => return,
        Err(error) => assert!(!error.message.is_empty() && matches!(error.exit_code(), 1 | 2), "{error:?}"),
    }
    let Some(as_variables) = as_variables(&words).filter(|_| variables.is_empty()) else { return };
    match (parsed, parse(&[], &as_variables)) {
        (Ok(Parsed::Run(by_words)), Ok(Parsed::Run(by_variables))) => {
            let told = |config: Config| format!("{:?}", Config { warnings: Vec::new(), ..config });
            assert_eq!(told(*by_words), told(*by_variables));
        }
        (Err(_), Err(_)) => {}
        (by_words, by_variables) => panic!("by words {by_words:?}, by variables {by_variables:?}"),
    }
}

fn parse(words: &[String], variables: &[(String, String)]) -> Result<Parsed, ConfigError> {
    Config::from_args(words.iter().map(OsString::from), variables.iter().cloned())
}

/// The variables that say what words of the form `--name=value` say; None for other words, and where one of them has a
/// meaning of its own: a flag without a value or given twice, the one that asks for the version.
fn as_variables(words: &[String]) -> Option<Vec<(String, String)>> {
    let mut variables: Vec<(String, String)> = Vec::new();
    for word in words {
        let (name, value) = word.strip_prefix("--")?.split_once('=').filter(|(_, value)| !value.is_empty())?;
        let known = urd::config::flags::find(name).is_some_and(|flag| flag.name == name) && name != "version";
        let variable = format!("ETCD_{}", name.to_ascii_uppercase().replace('-', "_"));
        if !known || variables.iter().any(|(other, _)| *other == variable) {
            return None;
        }
        variables.push((variable, value.to_owned()));
    }
    Some(variables)
}

fn check_config(config: &Config) {
    assert!(config.heartbeat_ms >= 1 && config.election_ms >= 5 * config.heartbeat_ms && config.election_ms <= 50_000);
    assert!(config.lease_ttl_min() >= 1 && config.request_timeout_ms() <= 105_000);
    assert!(config.shards >= 1 && config.max_concurrent_streams >= 1);
    assert!((password::COST_MIN..=password::COST_MAX).contains(&config.bcrypt_cost));
    assert!(!config.listen_client_urls.is_empty() && !config.advertise_client_urls.is_empty());
    assert!(config.warnings.iter().all(|warning| !warning.message.is_empty()));
}

// ---- tokens ----

/// Tokens that etcd has given out, a line each behind the method.
const TOKENS: &str = include_str!("../keys/etcd-3.7.3-tokens.txt");

const SECRET: &[u8] = b"nobody guesses this";

fn key_file(name: &str) -> io::Result<Vec<u8>> {
    Ok(match name {
        "secret" => SECRET.to_vec(),
        "rsa-pub.pem" => include_bytes!("../keys/rsa-pub.pem").to_vec(),
        "ec256-pub.pem" => include_bytes!("../keys/ec256-pub.pem").to_vec(),
        "ec384-pub.pem" => include_bytes!("../keys/ec384-pub.pem").to_vec(),
        "ec521-pub.pem" => include_bytes!("../keys/ec521-pub.pem").to_vec(),
        "ed-pub.pem" => include_bytes!("../keys/ed-pub.pem").to_vec(),
        _ => return Err(io::ErrorKind::NotFound.into()),
    })
}

fn jwt(option: &str) -> Jwt {
    match Tokens::from_option(option, 1000, &key_file) {
        Ok(Tokens::Signed(jwt)) => *jwt,
        Ok(_) => panic!("{option} is of signed tokens"),
        Err(cause) => panic!("{option}: {cause}"),
    }
}

/// The two lowest bits of the first byte say what the rest is: 0 a token as somebody shows it; 1 a header and claims, a
/// line each, which are signed as they must be; 2 the value of `--auth-token`, a line of it, and behind it a private and a
/// public key with a byte 0 in between; 3 simple tokens that come, are shown and go. Nobody is known by a token that was
/// not made for him.
pub fn token(input: &[u8]) {
    let Some((how, rest)) = input.split_first() else { return };
    match how & 3 {
        0 => forged(how >> 2, &String::from_utf8_lossy(rest)),
        1 => signed(rest),
        2 => keys(how >> 2, rest),
        _ => simple(rest),
    }
}

/// By the public keys of the tests, whose private ones have signed the tokens above and nothing else.
fn forged(which: u8, token: &str) {
    const OPTIONS: [&str; 5] = [
        "jwt,sign-method=RS256,pub-key=rsa-pub.pem",
        "jwt,sign-method=ES256,pub-key=ec256-pub.pem",
        "jwt,sign-method=ES384,pub-key=ec384-pub.pem",
        "jwt,sign-method=ES512,pub-key=ec521-pub.pem",
        "jwt,sign-method=EdDSA,pub-key=ed-pub.pem",
    ];
    thread_local! {
        static PROVERS: [Jwt; 5] = OPTIONS.map(jwt);
    }
    let claims = PROVERS.with(|provers| provers[usize::from(which) % provers.len()].claims(token));
    let Some(Claims { user, revision, .. }) = claims else { return };
    assert_eq!((&user[..], revision), ("root", 3), "what etcd has signed");
    let message = token.rsplit_once('.').expect("a token has parts").0;
    let made = TOKENS.lines().any(|line| line.split(' ').nth(1).is_some_and(|made| made.starts_with(message)));
    assert!(made, "{token} was never signed");
}

/// RFC 2104, written out: here it must not be the code under test.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().to_vec()
}

fn signed(text: &[u8]) {
    thread_local! {
        static PROVER: Jwt = jwt("jwt,sign-method=HS256,priv-key=secret");
    }
    let (header, claims) = match text.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (&br#"{"alg":"HS256","typ":"JWT"}"#[..], text),
    };
    let message = format!("{}.{}", base64::encode_url(header), base64::encode_url(claims));
    let mut signature = hmac(SECRET, message.as_bytes());
    PROVER.with(|prover| {
        let token = |signature: &[u8]| format!("{message}.{}", base64::encode_url(signature));
        let Some(claims) = prover.claims(&token(&signature)) else { return };
        let _ = (claims.count_at(0.0), claims.count_at(1.8e9), claims.count_at(f64::MAX));
        assert_eq!(prover.claims(&token(&signature[..31])), None, "a signature that is cut short");
        signature[claims.user.len() % 32] ^= 1;
        assert_eq!(prover.claims(&token(&signature)), None, "a signature with one bit changed");
        assert_eq!(prover.claims(&message), None, "no signature");
    });
}

fn keys(form: u8, text: &[u8]) {
    const LABELS: [&str; 6] =
        ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY", "PUBLIC KEY", "RSA PUBLIC KEY", "CERTIFICATE"];
    let (option, files) = match text.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &[][..]),
    };
    let (private, public) = match files.iter().position(|byte| *byte == 0).filter(|_| form & 1 == 0) {
        Some(at) => (&files[..at], &files[at + 1..]),
        // Bytes of the one that is there, whatever they are.
        None => (files, files),
    };
    // As it is, or as PEM around it: nobody's mutations get through base 64.
    let file = |bytes: &[u8], label: &str| match form & 1 {
        0 => bytes.to_vec(),
        _ => format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", base64::encode(bytes)).into_bytes(),
    };
    let label = LABELS[usize::from(form >> 1) % LABELS.len()];
    let read = |name: &str| match name {
        "private" => Ok(file(private, label)),
        "public" => Ok(file(public, label)),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    match Tokens::from_option(&String::from_utf8_lossy(option), 1000, &read) {
        Ok(Tokens::Signed(jwt)) => {
            let Ok(token) = jwt.sign("ann", 7, 1_000_000) else { return };
            let claims = jwt.claims(&token).expect("who signs knows its own tokens");
            assert_eq!((&claims.user[..], claims.revision), ("ann", 7));
        }
        Ok(_) => {}
        Err(cause) => assert!(!cause.is_empty()),
    }
}

/// A byte that says what happens, a byte of length, so many bytes of a name; time passes by a second a step.
fn simple(mut steps: &[u8]) {
    const TTL_MS: u64 = 5_000;
    let Ok(tokens) = Tokens::from_option("simple", TTL_MS, &key_file) else { panic!("it takes no options") };
    let Tokens::Simple(table) = &tokens else { panic!("they were asked for") };
    // Whose each is, and when it was made or shown last.
    let mut made: HashMap<String, (String, u64)> = HashMap::new();
    let mut now_ms = 0;
    while let [what, len, rest @ ..] = steps {
        let (name, after) = rest.split_at(rest.len().min(usize::from(*len)));
        let name = String::from_utf8_lossy(name).into_owned();
        steps = after;
        now_ms += 1_000;
        let index = now_ms;
        match what % 5 {
            0 if !name.is_empty() => {
                tokens.change(&[TokenChange::Minted { prefix: name.clone(), index, user: name.clone() }], now_ms);
                made.insert(simple_token(&name, index), (name, now_ms));
            }
            0 => tokens.change(&[TokenChange::Minted { prefix: name, index, user: "root".into() }], now_ms),
            1 => {
                tokens.change(&[TokenChange::Dropped { user: name.clone() }], now_ms);
                made.retain(|_, (user, _)| *user != name);
            }
            2 if name.is_empty() => {
                tokens.change(&[TokenChange::Cleared], now_ms);
                made.clear();
            }
            2 => tokens.sweep(now_ms),
            3 => {
                if table.user(&name, now_ms).is_some() {
                    made.get_mut(&name).unwrap_or_else(|| panic!("{name:?} was never made")).1 = now_ms;
                }
            }
            _ => {
                for (token, (user, shown_ms)) in &mut made {
                    let known = table.user(token, now_ms);
                    assert!(known.as_deref().is_none_or(|known| known == user), "{token} is of {user}");
                    assert!(known.is_some() || now_ms - *shown_ms >= TTL_MS, "{token} has ended early");
                    // It may live longer by what saves writes: a thirty-second.
                    assert!(known.is_none() || now_ms - *shown_ms <= TTL_MS + TTL_MS / 16, "{token} lives on");
                    if known.is_some() {
                        *shown_ms = now_ms;
                    }
                }
            }
        }
        assert!(table.len() <= made.len(), "no more than were made");
    }
}
