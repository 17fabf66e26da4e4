use super::*;

/// The fields of a block, as text.
fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, Undecodable> {
    let mut fields = Vec::new();
    let text = |text: &Text| String::from_utf8(text.to_vec()).unwrap();
    decoder.decode(block, |field| fields.push((text(&field.name), text(&field.value))))?;
    Ok(fields)
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|letter| letter.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

/// A block in hexadecimal, its fields, and the size of the table after it.
type Sample<'a> = (&'a str, &'a [(&'a str, &'a str)], usize);

/// Decodes blocks one after another.
fn check(decoder: &mut Decoder, blocks: &[Sample<'_>]) {
    for (block, fields, size) in blocks {
        let decoded = decode(decoder, &hex(block)).unwrap();
        let expected: Vec<(String, String)> =
            fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(decoded, expected, "{block}");
        assert_eq!(decoder.size, *size, "{block}");
        assert_eq!(decoder.size, decoder.table.iter().map(Field::size).sum::<usize>());
    }
}

#[test]
fn integers_of_appendix_c_1() {
    let read = |bytes: &[u8], prefix| {
        let mut block = bytes;
        integer(&mut block, prefix).map(|value| (value, block.len()))
    };
    assert_eq!(read(&[0b0000_1010], 5), Ok((10, 0)));
    assert_eq!(read(&[0b0001_1111, 0b1001_1010, 0b0000_1010], 5), Ok((1337, 0)));
    assert_eq!(read(&[0b0010_1010], 8 - 1), Ok((42, 0)));
    assert_eq!(read(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 9], 7), Ok((0x7f + 0x0fff_ffff, 1)));
    assert_eq!(read(&[0x7f, 0x80, 0x80, 0x80, 0x80, 0x00], 7), Err(Undecodable));
    assert_eq!(read(&[0x7f, 0xff, 0xff, 0xff, 0xff, 0x7f], 7), Err(Undecodable));
    assert_eq!(read(&[0x7f, 0x80], 7), Err(Undecodable));
    assert_eq!(read(&[], 7), Err(Undecodable));
}

#[test]
fn fields_of_appendix_c_2() {
    check(
        &mut Decoder::new(),
        &[
            (
                "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
                &[("custom-key", "custom-header")],
                55,
            ),
            ("040c 2f73 616d 706c 652f 7061 7468", &[(":path", "/sample/path")], 55),
            ("1008 7061 7373 776f 7264 0673 6563 7265 74", &[("password", "secret")], 55),
            ("82", &[(":method", "GET")], 55),
        ],
    );
}

const REQUESTS: [&[(&str, &str)]; 3] = [
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
        ("cache-control", "no-cache"),
    ],
    &[
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ],
];

#[test]
fn requests_of_appendix_c_3_and_c_4() {
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let coded = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    for blocks in [plain, coded] {
        let mut decoder = Decoder::new();
        for ((block, fields), size) in blocks.into_iter().zip(REQUESTS).zip([57, 110, 164]) {
            check(&mut decoder, &[(block, fields, size)]);
        }
    }
}

#[test]
fn responses_of_appendix_c_5_and_c_6() {
    const DATE: (&str, &str) = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
    const LOCATION: (&str, &str) = ("location", "https://www.example.com");
    let fields: [&[(&str, &str)]; 3] = [
        &[(":status", "302"), ("cache-control", "private"), DATE, LOCATION],
        &[(":status", "307"), ("cache-control", "private"), DATE, LOCATION],
        &[
            (":status", "200"),
            ("cache-control", "private"),
            ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
            LOCATION,
            ("content-encoding", "gzip"),
            ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
        ],
    ];
    let plain = [
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d
         546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f
         6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b
         2076 6572 7369 6f6e 3d31",
    ];
    let coded = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7
         8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335
         dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ];
    for blocks in [plain, coded] {
        let mut decoder = Decoder::new();
        // The appendix has a table of 256 bytes, so that fields are evicted.
        decode(&mut decoder, &hex("3fe1 01")).unwrap();
        assert_eq!(decoder.size_max, 256);
        for ((block, fields), size) in blocks.into_iter().zip(fields).zip([222, 222, 215]) {
            check(&mut decoder, &[(block, fields, size)]);
        }
    }
}

#[test]
fn a_field_larger_than_the_table_empties_it() {
    let mut decoder = Decoder::new();
    check(&mut decoder, &[("4001 6101 62", &[("a", "b")], 34)]);
    let large = [&hex("4001 617f e11e")[..], &[b'x'; 4064]].concat();
    let mut seen = 0;
    decoder.decode(&large, |field| seen = field.size()).unwrap();
    assert_eq!((seen, decoder.size, decoder.table.len()), (4097, 0, 0));
}

#[test]
fn a_smaller_table_evicts_at_once_and_may_grow_again() {
    let mut decoder = Decoder::new();
    check(&mut decoder, &[("4001 6101 62 4001 6301 64", &[("a", "b"), ("c", "d")], 68)]);
    // 34 bytes: the newer field stays.
    check(&mut decoder, &[("3f03", &[], 34), ("be", &[("c", "d")], 34)]);
    check(&mut decoder, &[("20", &[], 0), ("3fe1 1f 4001 6101 62", &[("a", "b")], 34)]);
    assert_eq!(decode(&mut decoder, &hex("3fe2 1f")), Err(Undecodable), "4,097 bytes");
    assert_eq!(decode(&mut decoder, &hex("82 20")), Err(Undecodable), "not at the beginning");
}

#[test]
fn a_name_may_be_taken_from_a_field_whose_value_was_wrong() {
    let mut decoder = Decoder::new();
    let mut kinds = Vec::new();
    decoder.decode(&hex("4001 6101 0a 7e01 62"), |field| kinds.push(field.kind)).unwrap();
    assert_eq!(kinds, [Kind::Forbidden, Kind::Metadata]);
}

#[test]
fn blocks_cut_anywhere_are_refused_or_whole_fields() {
    let block = hex("8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65");
    for len in 0..block.len() {
        let mut decoder = Decoder::new();
        decode(&mut decoder, &hex("4001 6101 62 4001 6301 64")).unwrap();
        assert_eq!(decode(&mut decoder, &block[..len]).is_ok(), len <= 4, "{len}");
    }
}
