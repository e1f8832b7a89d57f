//! Imports point downwards only (AI-1 to AI-4 of the architecture).
//!
//! A crate that is not in the table may not be imported by name restrictions alone: the table
//! says which of our own crates each of our crates may use, and who may use the few outside
//! crates that belong to one place.

use super::verdict;
use crate::error::Result;
use crate::workspace::{Metadata, Package};

/// Our crates, lowest layer first, each with those of ours it may use.
const OURS: [(&str, &[&str]); 14] = [
    ("anchorite-addr", &[]),
    ("anchorite-abi", &[]),
    ("anchorite-shadow", &["anchorite-addr"]),
    ("anchorite-vcpu", &["anchorite-addr"]),
    ("anchorite-loader", &["anchorite-addr", "anchorite-abi"]),
    ("anchorite-cpu", &["anchorite-vcpu"]),
    ("anchorite-vmx", &["anchorite-cpu", "anchorite-vcpu", "anchorite-addr"]),
    ("anchorite-svm", &["anchorite-cpu", "anchorite-vcpu", "anchorite-addr"]),
    ("anchorite-vmm", &["anchorite-shadow", "anchorite-vcpu", "anchorite-abi", "anchorite-addr"]),
    (
        "anchorite-platform",
        &["anchorite-shadow", "anchorite-vmm", "anchorite-vcpu", "anchorite-addr", "anchorite-abi"],
    ),
    ("anchorite-guests", &["anchorite-abi"]),
    ("anchorite-hermit-guests", &[]),
    ("anchorite-peer-kvm", &["anchorite-abi", "anchorite-addr", "anchorite-loader"]),
    (
        "anchorite-image",
        &[
            "anchorite-addr",
            "anchorite-abi",
            "anchorite-shadow",
            "anchorite-vcpu",
            "anchorite-loader",
            "anchorite-vmx",
            "anchorite-svm",
            "anchorite-vmm",
            "anchorite-platform",
        ],
    ),
];

/// Crates from outside that belong to a few of ours: the kernel and the pool's allocator to the
/// platform (AI-4), processor crates to whoever touches the processor (AI-1, AI-3).
const OUTSIDE: [(&str, &[&str]); 4] = [
    ("hermit-kernel", &["anchorite-platform", "anchorite-hermit-guests"]),
    ("talc", &["anchorite-platform"]),
    ("x86", &["anchorite-platform", "anchorite-cpu", "anchorite-vmx", "anchorite-svm"]),
    ("log", &["anchorite-platform", "anchorite-image", "anchorite-hermit-guests"]),
];

/// Crates without any dependency from outside (L0).
const ALONE: [&str; 2] = ["anchorite-addr", "anchorite-abi"];

/// Judges every member by its manifest, tests and build scripts aside.
pub(super) fn check(members: &Metadata) -> Result<()> {
    let faults: Vec<String> = members.packages().flat_map(faults_of).collect();
    verdict(&faults)
}

fn faults_of(package: Package<'_>) -> Vec<String> {
    let dependencies: Vec<&str> = package.dependencies(false).collect();
    faults(package.name(), &dependencies)
}

fn faults(name: &str, dependencies: &[&str]) -> Vec<String> {
    let allowed = OURS.iter().find(|(ours, _)| *ours == name).map(|(_, allowed)| *allowed);
    let Some(allowed) = allowed else {
        return unknown(name);
    };
    let mut faults = Vec::new();
    for dependency in dependencies {
        let ours = OURS.iter().any(|(ours, _)| ours == dependency);
        let owners = OUTSIDE.iter().find(|(outside, _)| outside == dependency);
        if ours && !allowed.contains(dependency) {
            faults.push(format!("{name} imports {dependency}: not downwards"));
        } else if owners.is_some_and(|(_, owners)| !owners.contains(&name)) {
            faults.push(format!("{name} imports {dependency}: it belongs to others"));
        } else if !ours && ALONE.contains(&name) {
            faults.push(format!("{name} imports {dependency}: it is to have no dependencies"));
        }
    }
    faults
}

/// Tools stand outside the layers and may use none of them; anything else must get a place.
fn unknown(name: &str) -> Vec<String> {
    if name == "xtask" || name.ends_with("-fuzz") {
        return Vec::new();
    }
    vec![format!("{name} has no place in the layers; give it one in ci/xtask/src/lint/imports.rs")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_allowed_import_points_downwards() {
        for (place, (name, allowed)) in OURS.iter().enumerate() {
            for import in *allowed {
                let below = OURS.iter().position(|(ours, _)| ours == import);
                assert!(below.is_some_and(|below| below < place), "{name} imports {import}");
            }
        }
    }

    #[test]
    fn an_import_upwards_or_of_a_foreign_crate_is_a_fault() {
        assert_eq!(faults("anchorite-svm", &["anchorite-vcpu", "bitflags"]), [""; 0]);
        assert_eq!(faults("anchorite-svm", &["anchorite-shadow"]).len(), 1);
        assert_eq!(faults("anchorite-shadow", &["talc"]).len(), 1);
        assert_eq!(faults("anchorite-image", &["hermit-kernel"]).len(), 1);
        assert_eq!(faults("anchorite-addr", &["bitflags"]).len(), 1);
        assert_eq!(faults("anchorite-new", &[]).len(), 1);
    }
}
