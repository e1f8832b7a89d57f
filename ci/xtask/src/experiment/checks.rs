//! What must hold of the records whatever the verdict says. Each can fail, and then the
//! experiment does.

use std::collections::BTreeMap;

use super::cell::{Part, Policy};
use super::record::Record;

/// Instructions by which a zap under `tagged` may differ between any numbers of live pages.
const FLAT: u64 = 64;
/// Frames besides the quota's: none.
const BEYOND_QUOTA: u64 = 0;

/// Everything that is wrong.
pub(super) fn faults(records: &[&Record]) -> Vec<String> {
    let mut faults = different_results(records);
    faults.extend(beyond_quota(records));
    faults.extend(sloped_zaps(records));
    faults
}

/// One trace under all policies must give the same guest-visible results.
fn different_results(records: &[&Record]) -> Vec<String> {
    let mut seen: BTreeMap<(String, u64), &Record> = BTreeMap::new();
    let mut faults = Vec::new();
    for record in records {
        let trace = (format!("{:?}/{}", record.cell.part, record.cell.name), record.seed);
        let first = seen.entry(trace).or_insert(record);
        if (&first.checksum, first.touches) != (&record.checksum, record.touches) {
            faults.push(format!(
                "{}, seed {}: {} read {} where {} read {}",
                record.cell.name,
                record.seed,
                record.policy,
                record.checksum,
                first.policy,
                first.checksum
            ));
        }
    }
    faults
}

/// Stale pages count: no policy may hold more frames than its quota (H10).
fn beyond_quota(records: &[&Record]) -> Vec<String> {
    let beyond = records.iter().filter(|one| one.peak_frames > one.cell.quota + BEYOND_QUOTA);
    beyond
        .map(|one| {
            let (peak, quota) = (one.peak_frames, one.cell.quota);
            format!("{}, {}: {peak} frames at a quota of {quota}", one.cell.name, one.policy)
        })
        .collect()
}

/// The default's zap takes the same instructions whatever it zaps.
fn sloped_zaps(records: &[&Record]) -> Vec<String> {
    let zaps: Vec<u64> = records
        .iter()
        .filter(|one| one.cell.part == Part::Live && one.policy() == Some(Policy::Tagged))
        .flat_map(|one| one.zap_host)
        .collect();
    let (Some(least), Some(most)) = (zaps.iter().min(), zaps.iter().max()) else {
        return Vec::new();
    };
    if most - least <= FLAT {
        return Vec::new();
    }
    vec![format!(
        "a zap-all under tagged takes {least} to {most} instructions, depending on what it zaps"
    )]
}

#[cfg(test)]
mod tests {
    use super::super::cell::{Design, Run};
    use super::*;

    fn record(policy: Policy, checksum: &str, zap: u64, peak: u64) -> Record {
        let design = Design::full();
        let cell = design.cells.iter().find(|cell| cell.part == Part::Live).unwrap();
        let run = Run { cell, policy, seed: 1 };
        let text =
            format!("E total 5 1\nE zaps 3*1\nE faults 5*1\nE checksum {checksum}\nVERIFY OK 1\n");
        let counters = format!(
            r#"{{"record":"counters","pages_peak":{peak},"reasons":{{"bench_zap_all":{{"count":1,"ticks":{zap}}}}}}}"#
        );
        Record::read(&run, &text, &[counters], "abc").unwrap()
    }

    fn faults_of(records: &[Record]) -> Vec<String> {
        faults(&records.iter().collect::<Vec<_>>())
    }

    #[test]
    fn policies_that_agree_are_fine() {
        let good = [record(Policy::Quota, "ff", 5_000, 9), record(Policy::Tagged, "ff", 500, 9)];
        assert_eq!(faults_of(&good), Vec::<String>::new());
    }

    #[test]
    fn a_guest_that_read_something_else_under_one_policy_is_told() {
        let bad = [record(Policy::Quota, "ff", 500, 9), record(Policy::Tagged, "fe", 500, 9)];
        let faults = faults_of(&bad);
        assert!(faults.len() == 1 && faults[0].contains("tagged read fe"), "{faults:?}");
    }

    #[test]
    fn frames_beyond_the_quota_are_told() {
        let faults = faults_of(&[record(Policy::Quota, "ff", 500, 1 << 20)]);
        assert!(faults.len() == 1 && faults[0].contains("1048576 frames"), "{faults:?}");
    }

    #[test]
    fn a_zap_of_the_default_that_grows_is_told_and_anothers_is_not() {
        let sloped =
            |policy| faults_of(&[record(policy, "ff", 500, 9), record(policy, "ff", 600, 9)]).len();
        assert_eq!((sloped(Policy::Tagged), sloped(Policy::Walk)), (1, 0));
    }
}
