//! What the kernel knows of this process, read from /proc at each scrape. (Prometheus: client_golang's process
//! collector, whose names these are.)

use std::fs;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Process {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    /// None: no limit.
    pub virtual_bytes_max: Option<u64>,
    pub open_files: u64,
    pub open_files_max: u64,
    /// Unix time.
    pub start_seconds: f64,
    /// Of IP, in the network namespace that the process is in.
    pub received_bytes: f64,
    pub sent_bytes: f64,
}

/// Clock ticks a second in /proc: fixed by the kernel's interface to user space on every architecture that urd runs on.
const TICKS: f64 = 100.0;
/// /proc/self/stat counts resident memory in pages; /proc/self/status in kB, which needs no page size.
const KB: u64 = 1024;

impl Process {
    /// Where /proc is not readable the values are zero.
    pub fn read() -> Process {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let mut process = parse(
            &text("/proc/self/stat"),
            &text("/proc/self/status"),
            &text("/proc/self/limits"),
            &text("/proc/stat"),
        );
        (process.received_bytes, process.sent_bytes) = network(&text("/proc/self/net/netstat"));
        process.open_files = fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64);
        process
    }
}

/// Octets in and out: a line of names and one of numbers, both beginning with `IpExt:`.
fn network(netstat: &str) -> (f64, f64) {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("IpExt:"));
    let (Some(names), Some(numbers)) = (lines.next(), lines.next()) else { return (0.0, 0.0) };
    let of = |wanted: &str| {
        let at = names.split_ascii_whitespace().position(|name| name == wanted)?;
        numbers.split_ascii_whitespace().nth(at)?.parse().ok()
    };
    (of("InOctets").unwrap_or(0.0), of("OutOctets").unwrap_or(0.0))
}

fn parse(stat: &str, status: &str, limits: &str, system: &str) -> Process {
    // The second field, the command, is in parentheses and may hold anything; the third follows the last of them.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map_or(Vec::new(), |(_, rest)| rest.split_ascii_whitespace().collect());
    // proc(5) numbers fields from 1; `fields` begins with the third.
    let field = |number: usize| fields.get(number - 3).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    let of_status = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    let limit = |key: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok())
    };
    let boot =
        system.lines().find_map(|line| line.strip_prefix("btime ")).and_then(|time| time.trim().parse::<f64>().ok());
    Process {
        cpu_seconds: (field(14) + field(15)) / TICKS,
        resident_bytes: of_status("VmRSS:") * KB,
        virtual_bytes: of_status("VmSize:") * KB,
        virtual_bytes_max: limit("Max address space"),
        open_files: 0,
        open_files_max: limit("Max open files").unwrap_or(0),
        start_seconds: boot.unwrap_or(0.0) + field(22) / TICKS,
        received_bytes: 0.0,
        sent_bytes: 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found() {
        let stat = "7 (a b) c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 3 0 1000 99 88 77";
        let status = "Name:\tx\nVmSize:\t   20 kB\nVmRSS:\t   10 kB\n";
        let limits = "Limit  Soft Limit\nMax open files            1024                 4096                 files\n\
                      Max address space         unlimited            unlimited            bytes\n";
        let process = parse(stat, status, limits, "cpu 1\nbtime 500\n");
        assert_eq!(
            process,
            Process {
                cpu_seconds: 2.0,
                resident_bytes: 10_240,
                virtual_bytes: 20_480,
                virtual_bytes_max: None,
                open_files: 0,
                open_files_max: 1024,
                start_seconds: 510.0,
                ..Process::default()
            }
        );
        assert_eq!(parse("", "", "", ""), Process::default());
    }

    #[test]
    fn octets_are_found_by_name() {
        let netstat = "TcpExt: A B\nTcpExt: 1 2\nIpExt: InNoRoutes InOctets OutOctets\nIpExt: 0 70 80\n";
        assert_eq!(network(netstat), (70.0, 80.0));
        assert_eq!(network("IpExt: InOctets\n"), (0.0, 0.0));
    }

    #[test]
    fn this_process_is_read() {
        let process = Process::read();
        assert!(process.resident_bytes > 0 && process.open_files > 0 && process.open_files_max > 0);
        assert!(process.start_seconds > 1e9);
    }
}
