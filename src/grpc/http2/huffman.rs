//! The Huffman code of header strings, read only: what a server writes is short and written plain. The code is
//! canonical (codes of one length ascend with their symbols), so the lengths are the whole of it. (RFC 7541, appendix
//! B.)

/// Bits of each symbol's code; the last is the end of a string, which no string contains.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, //
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, //
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, //
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, //
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, //
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, //
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, //
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

const END: u16 = 256;
const LONGEST: usize = 30;

/// Codes up to this long are looked up at once: all of what headers usually consist of.
const SHORT_BITS: u32 = 8;

struct Code {
    /// By the next eight bits: symbol and length of a short code, length 0 where the code is longer.
    short: [(u8, u8); 1 << SHORT_BITS],
    /// By length: the first code, and where its symbol stands in `symbols`.
    first: [(u32, u16); LONGEST + 2],
    /// By code.
    symbols: [u16; 257],
}

static CODE: Code = build();

const fn build() -> Code {
    let mut code = Code { short: [(0, 0); 1 << SHORT_BITS], first: [(0, 0); LONGEST + 2], symbols: [0; 257] };
    let mut next = 0u32;
    let mut placed = 0usize;
    let mut length = 1;
    while length <= LONGEST {
        next <<= 1;
        code.first[length] = (next, placed as u16);
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                code.symbols[placed] = symbol as u16;
                if length <= SHORT_BITS as usize {
                    let spare = SHORT_BITS as usize - length;
                    let mut tail = 0;
                    while tail < 1 << spare {
                        code.short[((next as usize) << spare) + tail] = (symbol as u8, length as u8);
                        tail += 1;
                    }
                }
                next += 1;
                placed += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    code.first[LONGEST + 1] = (next, placed as u16);
    code
}

/// Appends what `input` stands for. None where it is no such string: padding of a byte or more or of other bits than
/// ones, or the end of a string within it.
pub fn decode(input: &[u8], out: &mut Vec<u8>) -> Option<()> {
    // The shortest code has five bits.
    out.reserve(input.len() * 8 / 5);
    let mut input = input.iter();
    // The bits that have not been used yet, at the top.
    let mut bits = 0u64;
    let mut have = 0u32;
    loop {
        while have <= 56 {
            let Some(&byte) = input.next() else { break };
            bits |= u64::from(byte) << (56 - have);
            have += 8;
        }
        let (symbol, length) = CODE.short[(bits >> (64 - SHORT_BITS)) as usize];
        let (symbol, length) = match length {
            0 => long(bits)?,
            length => (symbol, u32::from(length)),
        };
        if length > have {
            // What is left of the bits is the beginning of the end of a string: ones, fewer than eight.
            let ones = (1u64 << have) - 1;
            return (have < 8 && bits.checked_shr(64 - have).unwrap_or(0) == ones).then_some(());
        }
        out.push(symbol);
        bits <<= length;
        have -= length;
    }
}

/// The symbol whose long code the bits begin with. None: it is the end of a string.
fn long(bits: u64) -> Option<(u8, u32)> {
    for length in SHORT_BITS as usize + 1..=LONGEST {
        let (first, place) = CODE.first[length];
        let (_, next_place) = CODE.first[length + 1];
        let offset = ((bits >> (64 - length)) as u32).wrapping_sub(first);
        if offset < u32::from(next_place - place) {
            let symbol = CODE.symbols[usize::from(place) + offset as usize];
            // Zeros after the last bit make no end of a string; a beginning of one in the padding is shorter.
            return (symbol != END).then_some((symbol as u8, length as u32));
        }
    }
    unreachable!("the code is complete")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by the lengths alone.
    fn encode(text: &[u8]) -> Vec<u8> {
        let mut codes = vec![0u32; 257];
        let mut next = 0;
        for length in 1..=LONGEST {
            next <<= 1;
            for symbol in 0..257 {
                if usize::from(LENGTHS[symbol]) == length {
                    codes[symbol] = next;
                    next += 1;
                }
            }
        }
        assert_eq!(next, 1 << LONGEST, "every code is given away");
        let mut bits: Vec<bool> = text
            .iter()
            .flat_map(|&byte| {
                let (code, length) = (codes[usize::from(byte)], LENGTHS[usize::from(byte)]);
                (0..length).rev().map(move |bit| code >> bit & 1 == 1)
            })
            .collect();
        while !bits.len().is_multiple_of(8) {
            bits.push(true);
        }
        bits.chunks(8).map(|byte| byte.iter().fold(0, |sum, &bit| sum << 1 | u8::from(bit))).collect()
    }

    fn decoded(input: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        decode(input, &mut out).map(|()| out)
    }

    #[test]
    fn every_symbol_comes_back_alone_and_in_company() {
        for byte in 0..=255 {
            assert_eq!(decoded(&encode(&[byte])), Some(vec![byte]));
            for other in [b'0', b'a', b'&', 0, 249, 255] {
                let text = [byte, other, byte, byte, other];
                assert_eq!(decoded(&encode(&text)).as_deref(), Some(&text[..]));
            }
        }
        let all: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
        assert_eq!(decoded(&encode(&all)), Some(all));
        assert_eq!(decoded(&[]), Some(vec![]));
    }

    #[test]
    fn the_samples_of_the_rfc_come_back() {
        // Section C.4.1 and C.6.1.
        let samples: [(&[u8], &str); 3] = [
            (&[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff], "www.example.com"),
            (&[0xae, 0xc3, 0x77, 0x1a, 0x4b], "private"),
            (
                &[
                    0xd0, 0x7a, 0xbe, 0x94, 0x10, 0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95, 0x04, 0x0b, 0x81, 0x66,
                    0xe0, 0x82, 0xa6, 0x2d, 0x1b, 0xff,
                ],
                "Mon, 21 Oct 2013 20:13:21 GMT",
            ),
        ];
        for (bytes, text) in samples {
            assert_eq!(decoded(bytes).as_deref(), Some(text.as_bytes()));
            assert_eq!(encode(text.as_bytes()), bytes);
        }
    }

    #[test]
    fn padding_is_fewer_than_eight_ones() {
        // '0' is 00000.
        assert_eq!(decoded(&[0b0000_0111]), Some(b"0".to_vec()));
        for bad in 0..7 {
            assert_eq!(decoded(&[bad]).filter(|out| out == b"0"), None, "{bad:b}");
        }
        assert_eq!(decoded(&[0b0000_0111, 0xff]), None);
        assert_eq!(decoded(&[0xff]), None);
        assert_eq!(decoded(&[0xff; 4]), None, "the end of a string");
        assert_eq!(decoded(&[0xff; 40]), None);
        assert_eq!(decoded(&[0x1f, 0xff, 0xff, 0xff, 0xff, 0x1f]), None, "the end of a string within it");
    }
}
