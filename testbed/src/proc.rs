//! What the kernel says about a process: processor time, resident memory, and the linear memories of its wasm VMs.
//!
//! Processor time is what makes a measurement on a busy machine worth something: waiting for a core does not count.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

/// V8 surrounds a 32-bit linear memory with inaccessible pages, so that no index can leave it.
const GUARD_AT_LEAST: u64 = 2 << 30;

/// User and system time that the process has used since it started; in steps of a clock tick, usually 10 ms.
pub fn cpu_time(process: u32) -> Result<Duration> {
    let path = format!("/proc/{process}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("{path} cannot be read"))?;
    let ticks = ticks(&stat).with_context(|| format!("{path} is not understood: {stat}"))?;
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// Bytes of memory that the process has resident.
pub fn resident(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("{path} cannot be read"))?;
    resident_in(&status).with_context(|| format!("{path} has no VmRSS"))
}

/// Bytes of each wasm linear memory in the process.
pub fn linear_memories(process: u32) -> Result<Vec<u64>> {
    let path = format!("/proc/{process}/maps");
    let maps = fs::read_to_string(&path).with_context(|| format!("{path} cannot be read"))?;
    Ok(linear_memories_in(&maps))
}

/// utime + stime. The second field is the program's name, which may contain spaces and parentheses.
fn ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn resident_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// A linear memory is a writable mapping with gigabytes of inaccessible ones right behind it.
fn linear_memories_in(maps: &str) -> Vec<u64> {
    let mappings: Vec<Mapping> = maps.lines().filter_map(Mapping::parse).collect();
    let followed = mappings.windows(2).filter_map(|pair| match pair {
        [memory, guard] if memory.writable && guard.inaccessible && memory.end == guard.start => Some((memory, guard)),
        _ => None,
    });
    followed.filter(|(_, guard)| guard.end - guard.start >= GUARD_AT_LEAST).map(|(memory, _)| memory.size()).collect()
}

struct Mapping {
    start: u64,
    end: u64,
    writable: bool,
    inaccessible: bool,
}

// === impl Mapping ===

impl Mapping {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let permissions = fields.next()?;
        Some(Self {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            writable: permissions.starts_with("rw-"),
            inaccessible: permissions.starts_with("---"),
        })
    }

    fn size(&self) -> u64 {
        self.end - self.start
    }
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "42 (envoy (a) b) S 1 42 42 0 -1 4194304 1 2 3 4 250 50 5 6 20 0 9 0 100 1 1";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(ticks("no process"), None);
    }

    #[test]
    fn resident_memory_is_told_in_bytes() {
        assert_eq!(resident_in("Name:\tenvoy\nVmRSS:\t   2048 kB\nThreads:\t9\n"), Some(2 * 1024 * 1024));
        assert_eq!(resident_in("Name:\tkthreadd\n"), None);
    }

    #[test]
    fn a_linear_memory_is_told_by_the_guard_behind_it() {
        let maps = "\
100000000000-100000120000 rw-p 00000000 00:00 0
100000120000-100300000000 ---p 00000000 00:00 0
7f0000000000-7f0000100000 rw-p 00000000 00:00 0   [heap]
7f0000100000-7f0000200000 ---p 00000000 00:00 0
";
        assert_eq!(linear_memories_in(maps), [0x12_0000]);
    }

    #[test]
    fn this_process_has_used_memory_and_can_be_asked_for_its_time() -> Result<()> {
        let this = std::process::id();
        assert!(resident(this)? > 100_000);
        cpu_time(this)?;
        linear_memories(this)?;
        Ok(())
    }
}
