//! Where a processor or an emulator is known to do otherwise than its manual says.
//!
//! The command line declares what to expect: `deviations=NAME,NAME`. A deviation that was
//! declared is counted and told at the end; one that was not is a failure.

use crate::{BootInfo, Report, println};

/// What a deviation is called, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its name on the command line.
    pub name: &'static str,
    /// What happens instead.
    pub what: &'static str,
}

/// QEMU 7.2: a reserved bit gives an error code without P.
pub const RESERVED_WITHOUT_P: Known = Known {
    name: "reserved-without-p",
    what: "page faults for reserved bits lack bit 0 of the error code",
};

/// QEMU's translator with one thread: an instruction that reads and writes at once reads
/// first, by rights of its own, and then writes.
pub const UPDATE_READS_FIRST: Known = Known {
    name: "update-reads-first",
    what: "locked additions fault as reads, or set A before they fault as writes",
};

/// QEMU 7.2, in entries of 1 GiB pages.
pub const ACCESSED_EARLY: Known =
    Known { name: "accessed-early", what: "A is set in a page's entry although the access faults" };

/// QEMU 7.2, which walks the topmost entries of PAE paging in memory at each access.
pub const MARKED_PDPTES: Known =
    Known { name: "marked-pdptes", what: "A is set in PDPTEs, where it is reserved" };

/// QEMU 7.2, and AMD processors under nested paging: the same, where an entry changes.
pub const PDPTES_IN_MEMORY: Known = Known {
    name: "pdptes-in-memory",
    what: "PDPTEs that change in memory matter before they are loaded",
};

/// Bochs 2.7: writes to CR0 and CR4 that change no bit of those that count.
pub const PDPTES_LOADED_OFTEN: Known = Known {
    name: "pdptes-loaded-often",
    what: "PDPTEs are loaded by every write to CR0, and by changes of CR4.SMAP and CR4.PKE",
};

/// QEMU 7.2.
pub const UNCHECKED_PDPTES: Known =
    Known { name: "unchecked-pdptes", what: "PDPTEs are loaded although one has reserved bits" };

/// Bochs 2.7.
pub const AC_SUSPENDS_IMPLICIT: Known = Known {
    name: "ac-suspends-implicit",
    what: "RFLAGS.AC suspends SMAP for the processor's own accesses at privilege level 3",
};

const ALL: [Known; 8] = [
    RESERVED_WITHOUT_P,
    UPDATE_READS_FIRST,
    ACCESSED_EARLY,
    MARKED_PDPTES,
    PDPTES_IN_MEMORY,
    PDPTES_LOADED_OFTEN,
    UNCHECKED_PDPTES,
    AC_SUSPENDS_IMPLICIT,
];

/// The deviations declared and seen.
#[derive(Debug)]
pub struct Deviations {
    declared: &'static str,
    seen: [u32; ALL.len()],
}

impl Deviations {
    /// Those that the command line declares.
    pub fn new(boot: &BootInfo) -> Self {
        Self { declared: boot.argument("deviations").unwrap_or(""), seen: [0; ALL.len()] }
    }

    /// Whether `known` was declared.
    pub fn expects(&self, known: Known) -> bool {
        self.declared.split(',').any(|name| name == known.name)
    }

    /// Counts one that was seen; `false` where it was not declared, and so is a failure.
    pub fn see(&mut self, known: Known) -> bool {
        let declared = self.expects(known);
        if let (true, Some(at)) = (declared, ALL.iter().position(|one| *one == known)) {
            self.seen[at] += 1;
        }
        declared
    }

    /// Tells what was seen, and fails a declaration that nothing came of.
    pub fn finish(&self, report: &mut Report) {
        for (known, seen) in ALL.iter().zip(self.seen) {
            if seen > 0 {
                println!("deviation {}: {} ({seen} times)", known.name, known.what);
            }
            let stale = seen == 0 && self.expects(*known);
            report
                .check(format_args!("deviation {} was declared and not seen", known.name), !stale);
        }
    }
}
