//! Where a call stands in a trace, as its caller tells it: `traceparent` and `tracestate`, read as etcd reads them, so that the
//! same calls are taken for parts of the same traces. (W3C Trace Context; opentelemetry-go: propagation/trace_context.go,
//! trace/tracestate.go.)

use std::sync::Arc;

use hashbrown::HashSet;

pub(super) const SAMPLED: u8 = 1;
const RANDOM: u8 = 2;

const STATE_MEMBERS_MAX: usize = 32;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Context {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    pub flags: u8,
    /// What others have added, in their own words.
    pub state: Arc<str>,
}

impl Context {
    /// None: nothing that counts. A state that cannot be read is left out.
    pub fn parse(parent: &[u8], state: Option<&[u8]>) -> Option<Self> {
        let text = std::str::from_utf8(parent).ok()?;
        let mut parts = text.splitn(5, '-');
        let [version] = hex(parts.next()?)?;
        let trace_id = hex(parts.next()?)?;
        let span_id = hex(parts.next()?)?;
        let [flags] = hex(parts.next()?)?;
        // Of the first version it is known that nothing follows. 255 is none.
        let known = match version {
            0 => parts.next().is_none_or(str::is_empty) && flags <= SAMPLED | RANDOM,
            255 => false,
            _ => true,
        };
        if !known || trace_id == [0; 16] || span_id == [0; 8] {
            return None;
        }
        let state = state.and_then(|state| std::str::from_utf8(state).ok()).and_then(tidy_state);
        Some(Context { trace_id, span_id, flags: flags & (SAMPLED | RANDOM), state: state.unwrap_or_default().into() })
    }

    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

/// Small letters only.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// The state without the blanks that may stand between its members; None where one of them is none.
fn tidy_state(text: &str) -> Option<String> {
    let mut known = HashSet::new();
    let mut members = Vec::new();
    for member in text.split(',').filter(|member| !member.is_empty()) {
        let (key, value) = member.split_once('=')?;
        let (key, value) = (key.trim_start_matches([' ', '\t']), value.trim_end_matches([' ', '\t']));
        if !is_key(key) || !is_value(value) || !known.insert(key) || members.len() == STATE_MEMBERS_MAX {
            return None;
        }
        members.push(format!("{key}={value}"));
    }
    Some(members.join(","))
}

fn is_key(key: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase();
    let letter_or_digit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let part = |text: &str, first: fn(u8) -> bool, more: usize| match text.as_bytes() {
        [head, rest @ ..] => {
            first(*head)
                && rest.len() <= more
                && rest.iter().all(|byte| {
                    byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'*' | b'/')
                })
        }
        [] => false,
    };
    match key.split_once('@') {
        None => part(key, letter, 255),
        Some((tenant, system)) => part(tenant, letter_or_digit, 240) && part(system, letter, 13),
    }
}

fn is_value(value: &str) -> bool {
    let is_letter = |byte: &u8| (b' '..=b'~').contains(byte) && !matches!(byte, b',' | b'=');
    (1..=256).contains(&value.len()) && value.bytes().all(|byte| is_letter(&byte)) && !value.ends_with(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn parse(parent: &str) -> Option<Context> {
        Context::parse(parent.as_bytes(), None)
    }

    #[test]
    fn a_parent_is_read_as_the_reference_reads_it() {
        let context = parse(&format!("00-{TRACE}-{SPAN}-01")).unwrap();
        assert_eq!(context.trace_id[..2], [0x0a, 0xf7]);
        assert_eq!(context.span_id, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
        assert!(context.is_sampled());
        assert!(!parse(&format!("00-{TRACE}-{SPAN}-00")).unwrap().is_sampled());
        assert_eq!(parse(&format!("00-{TRACE}-{SPAN}-03")).unwrap().flags, 3);
        // The dash at the end is one of the reference's own liberties.
        assert!(parse(&format!("00-{TRACE}-{SPAN}-01-")).is_some());
        // Of a later version what follows and other flags are passed over.
        assert_eq!(parse(&format!("cc-{TRACE}-{SPAN}-09-what")).unwrap().flags, 1);
        for bad in [
            String::new(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-01-x"),
            format!("00-{TRACE}-{SPAN}-01--"),
            format!("00-{TRACE}-{SPAN}-04"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("0-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{TRACE}0-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-g1"),
        ] {
            assert_eq!(parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn a_state_goes_on_whole_or_not_at_all() {
        let state = |text: &str| {
            let parent = format!("00-{TRACE}-{SPAN}-01");
            Context::parse(parent.as_bytes(), Some(text.as_bytes())).unwrap().state.to_string()
        };
        assert_eq!(state("a=b,c=d"), "a=b,c=d");
        assert_eq!(state(" a=b \t,,\tc@d=e f "), "a=b,c@d=e f");
        assert_eq!(state("0t@s=1"), "0t@s=1");
        for bad in ["a", "=b", "a=", "A=b", "0a=b", "a=b,a=c", "a=b=c", "a=\u{e4}", "a b=c", "a@B=c", "@b=c"] {
            assert_eq!(state(bad), "", "{bad}");
        }
        let many = |count: usize| (0..count).map(|number| format!("k{number}=v")).collect::<Vec<_>>().join(",");
        assert_eq!(state(&many(32)), many(32));
        assert_eq!(state(&many(33)), "");
        assert_eq!(state(&format!("a={}", "v".repeat(256))).len(), 258);
        assert_eq!(state(&format!("a={}", "v".repeat(257))), "");
    }
}
