//! What the targets are given first: samples of the formats, and what decent clients and operators would say.

use std::{fs, path::Path};

use prost::Message;
use rcgen::{
    CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod,
    KeyPair, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use time::{Duration, OffsetDateTime};
use urd::{
    bolt::write::{Part, Planner, Writer},
    proto::etcdserverpb::*,
};
use urd_client::{op, raw};

/// By target.
pub fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/v1");
    let segment = fs::read(samples.join("00000001.seg")).unwrap();
    let records = |how: u8, from: usize, to: usize| [&[how], &segment[from..to]].concat();
    let records = vec![
        records(0, 4096, 12288),
        records(1, 4096, 12288),
        records(3, 4096, 16384),
        records(7, 4096, 16384),
        records(3, 12288, 16384),
        records(1, 0x2000, 0x2100),
    ];
    let checkpoint = fs::read(samples.join("checkpoint")).unwrap();
    let checkpoints = vec![[&[0], &checkpoint[..]].concat(), [&[1], &checkpoint[..]].concat()];
    vec![
        ("record", records),
        ("checkpoint", checkpoints),
        ("database", databases()),
        ("request", requests()),
        ("grpc", connections()),
        ("json", texts()),
        ("http2", connections().iter().map(|seed| [&[0], &h2(4, 0, 0, &[])[..], &seed[1..]].concat()).collect()),
        ("certificate", certificates()),
        ("config", settings()),
        ("token", tokens()),
        ("dns", answers()),
    ]
}

/// Answers of DNS behind their question: flags, how many answers, authorities and additions, and these.
fn answers() -> Vec<Vec<u8>> {
    let service = b"\xc0\x0c\0\x21\0\x01\0\0\0\x3c\0\x0e\0\x01\0\0\x09\x4c\x01a\x04test\0";
    let alias = b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x02\xc0\x14";
    let pointing = b"\x01x\xc0\x14\0\x21\0\x01\0\0\0\0\0\x0a\0\0\0\0\0\0\x01b\xc0\x14";
    let extended = b"\0\0\x29\x04\xd0\x01\0\0\0\0\0";
    vec![
        [&b"\x81\x80\0\x01\0\0\0\0"[..], service].concat(),
        [&b"\x85\x80\0\x03\0\0\0\x01"[..], alias, service, pointing, extended].concat(),
        b"\x81\x83\0\0\0\0\0\0".to_vec(),
    ]
}

/// JSON of every kind of message, in whole and in pieces.
fn texts() -> Vec<Vec<u8>> {
    [
        (0, r#"{"key":"Zm9v","range_end":"AA==","limit":"2","sort_order":"ASCEND","sortTarget":4,"serializable":true}"#),
        (1, r#"{"key":"Zm9v","value":"dmFsdWU-P34","lease":1e3,"prevKv":null,"x":[{"y":"\ud83d\ude00"}]}"#),
        (
            2,
            r#"{"compare":[{"target":"VERSION","result":1,"key":"YQ==","version":"-1"}],"success":[{"request_put":{"key":"YQ=="}},{"request_txn":{"failure":[{"requestRange":{"key":"AA"}},{}]}}]}"#,
        ),
        (3, r#"{"create_request":{"key":"AA==","filters":["NOPUT",1],"fragment":true}} {"progress_request":{}}"#),
        (4, r#"{"TTL":"60","ID":9223372036854775807}"#),
        (5, r#"{"action":"ACTIVATE","memberID":"18446744073709551615","alarm":"NOSPACE"}"#),
        (6, r#"{"name":"\u0000<>&\u2028\"","password":"","options":{"no_password":true}}"#),
        (7, r#"{"name":"r","perm":{"permType":"READWRITE","key":"YQ==","range_end":"Yg=="}}"#),
        (8, r#"{"peerURLs":["http://a:1","b"],"isLearner":false}"#),
        (10, r#"{"header":{"revision":"3"},"kvs":[{"key":"YQ==","version":"1"},{}],"more":true}"#),
        (12, r#"{"watch_id":"-1","canceled":true,"cancel_reason":"a","events":[{"type":"DELETE","kv":{}}]}"#),
    ]
    .iter()
    .flat_map(|(which, text)| [*which, which | 0x10, which | 0x20].map(|how| [&[how], text.as_bytes()].concat()))
    .collect()
}

/// Databases of four pages, of what each bucket may hold.
fn databases() -> Vec<Vec<u8>> {
    type Entries = &'static [(&'static [u8], &'static [u8])];
    const KEY: Entries = &[
        (b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\0", b"\x0a\x01k\x10\x02\x18\x02\x20\x01\x2a\x05value\x30\x07"),
        (b"\0\0\0\0\0\0\0\x03_\0\0\0\0\0\0\0\0", b"\x0a\x01l\x10\x03\x18\x03\x20\x01"),
        (b"\0\0\0\0\0\0\0\x03_\0\0\0\0\0\0\0\x01t", b"\x0a\x01k"),
        (b"\0\0\0\0\0\0\0\x09_\0\0\0\0\0\0\0\0", b""),
    ];
    const META: Entries = &[
        (b"confState", br#"{"voters":[255],"auto_leave":false}"#),
        (b"consistent_index", b"\0\0\0\0\0\0\0\x05"),
        (b"finishedCompactRev", b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\0"),
        (b"scheduledCompactRev", b"\0\0\0\0\0\0\0\x03_\0\0\0\0\0\0\0\0"),
        (b"storageVersion", b"3.7.0"),
        (b"term", b"\0\0\0\0\0\0\0\x02"),
    ];
    let all: [(&str, Entries); 9] = [
        ("alarm", &[(b"\x08\x05\x10\x01", b"")]),
        ("auth", &[(b"authEnabled", b"\0"), (b"authRevision", b"\0\0\0\0\0\0\0\x01")]),
        ("authUsers", &[(b"root", b"\x0a\x04root")]),
        ("cluster", &[(b"clusterVersion", b"3.7.0"), (b"downgrade", br#"{"target-version":"3.6.0","enabled":true}"#)]),
        ("key", KEY),
        ("lease", &[(b"\0\0\0\0\0\0\0\x07", b"\x08\x07\x10\x3c")]),
        ("members", &[(b"ff", br#"{"id":255,"peerURLs":["http://a"],"name":"n"}"#)]),
        ("members_removed", &[(b"3", b"removed")]),
        ("meta", META),
    ];
    let file = |buckets: &[(&str, Entries)]| {
        let mut planner = Planner::default();
        for (name, entries) in buckets {
            planner.bucket(name, entries.iter().map(|(key, value)| (key.len(), value.len())));
        }
        let mut writer = Writer::<()>::new(planner.finish());
        for (_, entries) in buckets {
            entries.iter().for_each(|(key, value)| writer.entry(key, &[Part::Bytes(value)]));
            writer.end_bucket();
        }
        writer.finish();
        // What is cut off its end is zeros.
        let mut input = [&[1], &writer.out()[..]].concat();
        input.truncate(16_384);
        input
    };
    vec![file(&all), file(&all[4..5]), file(&all[8..]), file(&[])]
}

fn framed(which: u8, message: &impl Message) -> Vec<u8> {
    let body = message.encode_to_vec();
    [&[which, u8::try_from(body.len()).expect("a short one")], &body[..]].concat()
}

fn requests() -> Vec<Vec<u8>> {
    let put =
        |key: &'static str, lease| PutRequest { key: key.into(), value: "value".into(), lease, ..Default::default() };
    let success = vec![op::put("t", "1"), op::get("t"), op::delete_range("a", "z"), op::put("u", "2")];
    let compare = vec![op::unchanged("k", 2), op::version("k", 1)];
    let txn = TxnRequest {
        compare,
        success,
        failure: vec![op::txn(TxnRequest { success: vec![op::get("k")], ..Default::default() })],
    };
    let range = RangeRequest {
        key: "a".into(),
        range_end: "z".into(),
        sort_order: 2,
        sort_target: 4,
        limit: 3,
        ..Default::default()
    };
    let create = WatchCreateRequest {
        key: "k".into(),
        range_end: "l".into(),
        start_revision: 1,
        prev_kv: true,
        ..Default::default()
    };
    let watch = WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) };
    let grant = framed(4, &LeaseGrantRequest { id: 7, ttl: 60 });
    let delete = DeleteRangeRequest { key: "k".into(), prev_kv: true, ..Default::default() };
    let compact = CompactionRequest { revision: 3, physical: true };
    let internal = InternalRaftRequest { put: Some(put("raw", 0)), ..Default::default() };
    vec![
        [grant.clone(), framed(0, &put("k", 7)), framed(2, &txn), framed(8, &range)].concat(),
        [framed(0, &put("k", 0)), framed(1, &delete), framed(0, &put("l", 0)), framed(3, &compact)].concat(),
        [grant, framed(0, &put("k", 7)), framed(5, &LeaseRevokeRequest { id: 7 })].concat(),
        framed(6, &AlarmRequest { action: 1, member_id: 5, alarm: 1 }),
        framed(7, &internal),
        framed(9, &TxnRequest { success: vec![op::get("k")], ..Default::default() }),
        framed(11, &watch),
        [framed(20, &internal), framed(0, &put("z", 0)), framed(8, &range)].concat(),
    ]
}

fn h2(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn connections() -> Vec<Vec<u8>> {
    let head = |path: &str| {
        raw::header_block(&[
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "a"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("grpc-timeout", "5S"),
            ("grpc-encoding", "gzip"),
        ])
    };
    let message = |body: &[u8]| [&[0], &(body.len() as u32).to_be_bytes()[..], body].concat();
    let call = |stream, path: &str, end: u8| {
        [h2(1, 4, stream, &head(path)), h2(0, end, stream, &message(b"\x0a\x01k"))].concat()
    };
    let all = [
        call(1, "/etcdserverpb.KV/Range", 1),
        call(3, "/etcdserverpb.KV/Put", 1),
        call(5, "/etcdserverpb.Watch/Watch", 0),
        h2(8, 0, 0, &[0, 1, 0, 0]),
        h2(6, 0, 0, b"pingping"),
        h2(3, 0, 5, &[0, 0, 0, 8]),
        call(7, "/no.Such/Method", 1),
        h2(4, 0, 0, &[0, 4, 0, 0, 0, 0]),
        h2(7, 0, 0, &[0; 8]),
    ]
    .concat();
    let block = head("/etcdserverpb.KV/Range");
    let split = [h2(1, 0, 1, &block[..9]), h2(9, 0, 1, &block[9..20]), h2(9, 4, 1, &block[20..])].concat();
    vec![
        [&[1], &all[..]].concat(),
        [&[3], &all[..]].concat(),
        [&[0x81 | 4], &all[..]].concat(),
        [&[1], &split[..], &h2(0, 1, 1, &message(&[7; 300]))[..]].concat(),
        [&[0], &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &h2(4, 0, 0, &[0, 3, 0, 0, 0, 9]), &all[..]].concat(),
        [&[1], &h2(1, 5, 1, &block)[..]].concat(),
        [&[1], &h2(1, 0x2c, 1, &[&[2, 0, 0, 0, 0, 16], &block[..], &[0, 0]].concat())[..]].concat(),
    ]
}

/// A key or certificate of the tests.
fn key_file(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(name)).unwrap()
}

fn block(kind: u8, der: &[u8]) -> Vec<u8> {
    [&[kind], &u16::try_from(der.len()).expect("a short one").to_be_bytes()[..], der].concat()
}

/// Certificates with names, their keys, authorities, a list: as text and as blocks.
fn certificates() -> Vec<Vec<u8>> {
    let key = KeyPair::from_pem(&String::from_utf8(key_file("ec256.pem")).unwrap()).unwrap();
    let begin = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
    let hosts = ["localhost", "*.example.com", "127.0.0.1", "::1"].map(str::to_owned);
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name.push(DnType::CommonName, "ann");
    params.distinguished_name.push(DnType::OrganizationName, "urd");
    params.serial_number = Some(SerialNumber::from(300u64));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    (params.not_before, params.not_after) = (begin, begin + Duration::days(9000));
    let named = params.self_signed(&key).unwrap();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    let revoked = |serial: u64| RevokedCertParams {
        serial_number: SerialNumber::from(serial),
        revocation_time: begin,
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: begin,
        next_update: begin + Duration::days(9000),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked(300), revoked(7)],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&Issuer::from_params(&params, &key)).unwrap();
    let mut seeds = vec![
        [&[0], &named.der()[..]].concat(),
        [&[0], &authority.der()[..]].concat(),
        [&[1], &list.der()[..]].concat(),
        [&[1], list.pem().unwrap().as_bytes()].concat(),
        [&[2], named.pem().as_bytes(), &key_file("ec256.pem")].concat(),
        [&[3], named.pem().as_bytes(), authority.pem().as_bytes()].concat(),
        [&[0x0f], &block(0, named.der())[..], &block(0, authority.der())].concat(),
    ];
    for (cert, key) in [("rsa", "rsa"), ("rsa", "rsa-pkcs1"), ("ec256", "ec256"), ("ec384", "ec384-sec1")] {
        let cert = CertificateDer::from_pem_slice(&key_file(&format!("{cert}-cert.pem"))).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&key_file(&format!("{key}.pem"))).unwrap();
        let kind = match key {
            PrivateKeyDer::Pkcs1(_) => 3,
            PrivateKeyDer::Sec1(_) => 2,
            _ => 1,
        };
        seeds.push([&[0], &cert[..]].concat());
        seeds.push([&[6], &block(0, &cert)[..], &block(kind, key.secret_der())].concat());
        seeds.push([&[7], &block(0, &cert)[..]].concat());
    }
    seeds
}

/// Command lines, variables, files.
fn settings() -> Vec<Vec<u8>> {
    [
        "\0--name=n1\n--data-dir=/d\n--listen-client-urls=http://127.0.0.1:1,unix://a:2\n--advertise-client-urls=http://a:1",
        "\0--initial-cluster=default=http://a:1,b=http://[::1]:2\n--initial-advertise-peer-urls=http://a:1\n--pre-vote=false",
        "\0-name\nn2\n--heartbeat-interval=10\n--election-timeout=0x40\n--auto-compaction-retention=10h\n--quota-backend-bytes=-1",
        "\0--feature-gates=LeaseCheckpoint=true,CompactHashCheck=false\n--grpc-keepalive-min-time=1h2m3.5s\n--bcrypt-cost=4",
        "\0--cert-file=c\n--key-file=k\n--trusted-ca-file=t\n--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\n--tls-min-version=TLS1.2\n--client-cert-allowed-hostname=a",
        "\0ETCD_NAME=n3\nETCD_MAX_TXN_OPS=7\nETCD_UNKNOWN=1\n--cors=http://a,https://b\n--host-whitelist=a",
        "\0--log-outputs=stderr,/l\n--enable-log-rotation\n--log-rotation-config-json={\"maxsize\":1}\n--auth-token=jwt,ttl=1m",
        "\0--experimental-max-learners=2\n--auto-compaction-mode=revision\n--auto-compaction-retention=5\n--max-request-bytes=1",
        "\x01name: 'n1'\nheartbeat-interval: 50\nelection-timeout: 500\nclient-transport-security:\n  cert-file: c\n  key-file: k\n  client-cert-auth: true\n  trusted-ca-file: t\nlog-outputs: [stderr]\ncors: '*'\n",
        "\x01{\"name\": \"n\", \"auto-compaction-retention\": \"1\", \"grpc-keepalive-min-time\": 5000000000,\t\"pre-vote\": false}",
        "\x01listen-client-urls: &a http://localhost:1\nadvertise-client-urls: *a\n# no more\npeer-transport-security: {allowed-cn: [], auto-tls: no}\n? x\n: |\n  y\n",
        "\x01feature-gates: LeaseCheckpoint=true\nexperimental-corrupt-check-time: 1h\nquota-backend-bytes: 0x10\nshards: 1_0\n---\nname: b\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// Tokens as etcd gave them out, claims, keys in their forms, and the lives of simple tokens.
fn tokens() -> Vec<Vec<u8>> {
    let given = String::from_utf8(key_file("etcd-3.7.3-tokens.txt")).unwrap();
    let mut seeds: Vec<Vec<u8>> = given
        .lines()
        .filter_map(|line| {
            let (method, token) = line.split_once(' ')?;
            let which = ["RS256", "ES256", "ES384", "ES512", "EdDSA"].iter().position(|it| *it == method)? as u8;
            Some([&[which << 2], token.as_bytes()].concat())
        })
        .collect();
    for text in [
        r#"{"username":"a","revision":2,"exp":1e9,"nbf":5}"#,
        "{\"alg\":\"HS256\"}\n{\"username\":\"\u{e9}\\ud83d\\ude00\",\"revision\":2.5,\"exp\":0}",
        "{\"alg\":\"none\"}\n{\"username\":7,\"revision\":-1,\"exp\":null}",
    ] {
        seeds.push([&[1], text.as_bytes()].concat());
    }
    for (method, private, public) in [
        ("RS256", "rsa-pkcs1.pem", "rsa-pub.pem"),
        ("PS512", "rsa.pem", "rsa-cert.pem"),
        ("ES256", "ec256-sec1.pem", "ec256-pub.pem"),
        ("ES384", "ec384.pem", "ec384-cert.pem"),
        ("ES512", "ec521-sec1.pem", "ec521-pub.pem"),
        ("EdDSA", "ed.pem", "ed-pub.pem"),
        ("HS512", "ed.pem", "ed-pub.pem"),
    ] {
        let option = format!("jwt,sign-method={method},priv-key=private,pub-key=public,ttl=1h\n");
        seeds.push([&[2], option.as_bytes(), &key_file(private), &[0], &key_file(public)].concat());
    }
    // The label's number stands above the bit that says there is one.
    for (label, method, name) in [
        (0, "ES256", "ec256.pem"),
        (0, "EdDSA", "ed.pem"),
        (1, "ES512", "ec521-sec1.pem"),
        (2, "RS256", "rsa-pkcs1.pem"),
    ] {
        let option = format!("jwt,sign-method={method},priv-key=private\n");
        let der = PrivateKeyDer::from_pem_slice(&key_file(name)).unwrap();
        seeds.push([&[2 | 1 << 2 | label << 3], option.as_bytes(), der.secret_der()].concat());
    }
    for (method, name) in [("ES384", "ec384-cert.pem"), ("RS512", "rsa-cert.pem")] {
        let option = format!("jwt,sign-method={method},pub-key=public\n");
        let der = CertificateDer::from_pem_slice(&key_file(name)).unwrap();
        seeds.push([&[2 | 1 << 2 | 5 << 3], option.as_bytes(), &der[..]].concat());
    }
    seeds.push(
        b"\x03\x00\x01a\x00\x01b\x04\x00\x03\x06a.1000\x04\x00\x01\x01a\x04\x00\x02\x01x\x02\x00\x04\x00".to_vec(),
    );
    seeds
}
