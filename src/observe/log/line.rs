//! One log line in either form. (etcd: client/pkg/logutil, the encoder's settings; go.uber.org/zap.)

use std::time::{SystemTime, UNIX_EPOCH};

use super::{
    Format, Level,
    field::{Field, escape},
};

pub(super) struct Line<'a> {
    pub level: Level,
    pub name: &'a str,
    pub caller: &'a str,
    pub message: &'a str,
    pub time: SystemTime,
}

impl Line<'_> {
    pub fn write(&self, format: Format, fields: &[(&str, &dyn Field)], out: &mut Vec<u8>) {
        match format {
            Format::Json => self.write_json(fields, out),
            Format::Console => self.write_console(fields, out),
        }
    }

    fn write_json(&self, fields: &[(&str, &dyn Field)], out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"level\":\"");
        out.extend_from_slice(self.level.name().as_bytes());
        out.extend_from_slice(b"\",\"ts\":\"");
        write_time(self.time, out);
        if !self.name.is_empty() {
            out.extend_from_slice(b"\",\"logger\":\"");
            escape(self.name, out);
        }
        out.extend_from_slice(b"\",\"caller\":\"");
        escape(short(self.caller), out);
        out.extend_from_slice(b"\",\"msg\":\"");
        escape(self.message, out);
        out.push(b'"');
        if !fields.is_empty() {
            out.push(b',');
            write_fields(fields, out);
        }
        out.extend_from_slice(b"}\n");
    }

    fn write_console(&self, fields: &[(&str, &dyn Field)], out: &mut Vec<u8>) {
        write_time(self.time, out);
        for part in [self.level.name(), self.name, short(self.caller)] {
            if !part.is_empty() {
                out.push(b'\t');
                out.extend_from_slice(part.as_bytes());
            }
        }
        out.push(b'\t');
        // A message with a line break must not forge a second line.
        escape(self.message, out);
        if !fields.is_empty() {
            out.extend_from_slice(b"\t{");
            write_fields(fields, out);
            out.push(b'}');
        }
        out.push(b'\n');
    }
}

fn write_fields(fields: &[(&str, &dyn Field)], out: &mut Vec<u8>) {
    for (at, (key, value)) in fields.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.push(b'"');
        escape(key, out);
        out.extend_from_slice(b"\":");
        value.write(out);
    }
}

/// The last folder and the file: `shard/mod.rs:12`.
fn short(caller: &str) -> &str {
    match caller.rmatch_indices('/').nth(1) {
        Some((at, _)) => &caller[at + 1..],
        None => caller,
    }
}

/// `2006-01-02T15:04:05.000000Z`, always in UTC.
fn write_time(time: SystemTime, out: &mut Vec<u8>) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    put(&mut text[..4], year);
    put(&mut text[5..7], month);
    put(&mut text[8..10], day);
    put(&mut text[11..13], second / 3600);
    put(&mut text[14..16], second / 60 % 60);
    put(&mut text[17..19], second % 60);
    put(&mut text[20..26], u64::from(since.subsec_micros()));
    out.extend_from_slice(&text);
}

fn put(place: &mut [u8], mut value: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Year, month and day of a day counted from 1970-01-01 in the Gregorian calendar. A year is taken to begin in March, so
/// that the leap day is its last; 400 of them have 146,097 days.
pub fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day_of_month)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::observe::log::{hex, shown};

    fn line(format: Format, fields: &[(&str, &dyn Field)]) -> String {
        let time = UNIX_EPOCH + Duration::new(1_709_251_199, 7_000_999);
        let line = Line {
            level: Level::Warn,
            name: "raft",
            caller: "src/raft/core.rs:7",
            message: "say \"it\"\n\u{1}é",
            time,
        };
        let mut out = Vec::new();
        line.write(format, fields, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn json_has_etcds_keys_in_etcds_order() {
        let urls = vec!["http://a:1".to_owned(), "b".to_owned()];
        let text = line(
            Format::Json,
            &[
                ("local-member-id", &hex(0xab)),
                ("took", &Duration::from_millis(1500)),
                ("urls", &urls),
                ("n", &-3_i64),
                ("ok", &true),
                ("none", &None::<u64>),
                ("error", &shown("a\tb")),
                ("nan", &f64::NAN),
            ],
        );
        assert_eq!(
            text,
            "{\"level\":\"warn\",\"ts\":\"2024-02-29T23:59:59.007000Z\",\"logger\":\"raft\",\"caller\":\"raft/core.rs:7\",\
             \"msg\":\"say \\\"it\\\"\\n\\u0001é\",\"local-member-id\":\"ab\",\"took\":\"1.5s\",\
             \"urls\":[\"http://a:1\",\"b\"],\"n\":-3,\"ok\":true,\"none\":null,\"error\":\"a\\tb\",\"nan\":\"NaN\"}\n"
        );
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed["msg"], "say \"it\"\n\u{1}é");
    }

    #[test]
    fn console_is_tab_separated() {
        let text = line(Format::Console, &[("n", &1_u8)]);
        assert_eq!(
            text,
            "2024-02-29T23:59:59.007000Z\twarn\traft\traft/core.rs:7\tsay \\\"it\\\"\\n\\u0001é\t{\"n\":1}\n"
        );
    }

    #[test]
    fn dates_are_right_around_leap_days() {
        for (days, wanted) in [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (20_782, (2026, 11, 25)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(date(days), wanted);
        }
    }
}
