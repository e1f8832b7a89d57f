//! [`FEATURES`] and [`RULES`] as masks, worked out at compile time: the making of a machine
//! waits for what CPUID shows, and would otherwise look at each row and compare names.

use super::Leaf;
use super::features::{CONDITIONAL, Condition, FEATURES, Show};
use super::policy::RULES;

/// How many registers [`FEATURES`] has.
pub(super) const REGISTERS: usize = FEATURES.len();
/// The most that one row needs.
const MOST_NEEDS: usize = 2;

/// The bits of each register that are shown where the CPU has them.
pub(super) const PASSED: [u32; REGISTERS] = bits_of(Show::Passed);
/// The bits that are always shown.
pub(super) const SET: [u32; REGISTERS] = bits_of(Show::Set);
/// The bits that are shown where something holds, each group behind those that it asks for.
pub(super) static GROUPS: [Group; CONDITIONAL.len()] = groups();

/// What [`RULES`] say of each leaf that they name.
pub(super) static LEAVES: [LeafMasks; leaves()] = leaf_masks();

/// What becomes of a leaf by [`RULES`].
#[derive(Clone, Copy, Debug)]
pub(super) struct LeafMasks {
    pub(super) leaf: u32,
    keep: Leaf,
    set: Leaf,
}

impl LeafMasks {
    /// What the guest is shown of `host`, feature bits apart.
    pub(super) const fn apply(&self, host: &Leaf) -> Leaf {
        let Self { keep, set, .. } = self;
        Leaf {
            eax: host.eax & keep.eax | set.eax,
            ebx: host.ebx & keep.ebx | set.ebx,
            ecx: host.ecx & keep.ecx | set.ecx,
            edx: host.edx & keep.edx | set.edx,
        }
    }
}

/// A bit of a register in [`FEATURES`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) register: usize,
    pub(super) bit: u32,
}

/// A [`Condition`] with the feature that it names found.
#[derive(Clone, Copy, Debug)]
pub(super) enum Need {
    /// None.
    Nothing,
    /// The feature with this bit is shown.
    Feature(Place),
    /// What the condition says.
    Other(Condition),
}

/// The rows that share a [`Show::With`] or [`Show::Emulated`].
#[derive(Debug)]
pub(super) struct Group {
    /// All of this has to hold.
    pub(super) needs: [Need; MOST_NEEDS],
    /// Whatever the CPU has.
    pub(super) emulated: bool,
    pub(super) bits: [u32; REGISTERS],
}

/// The bit of the feature `name`: the first row of that name.
pub(super) const fn place(name: &str) -> Place {
    let mut register = 0;
    while register < REGISTERS {
        let rows = FEATURES[register].features;
        let mut row = 0;
        while row < rows.len() {
            if same_text(rows[row].name, name) {
                return Place { register, bit: rows[row].bit };
            }
            row += 1;
        }
        register += 1;
    }
    panic!("no row has this name")
}

/// How many leaves [`RULES`] name; those of one leaf follow each other.
const fn leaves() -> usize {
    let (mut count, mut rule) = (0, 0);
    while rule < RULES.len() {
        if rule == 0 || RULES[rule].leaf != RULES[rule - 1].leaf {
            count += 1;
        }
        rule += 1;
    }
    count
}

const fn leaf_masks() -> [LeafMasks; leaves()] {
    const NOTHING: Leaf = Leaf { eax: 0, ebx: 0, ecx: 0, edx: 0 };
    let mut masks = [LeafMasks { leaf: 0, keep: NOTHING, set: NOTHING }; leaves()];
    let (mut count, mut rule) = (0, 0);
    while rule < RULES.len() {
        if rule == 0 || RULES[rule].leaf != RULES[rule - 1].leaf {
            count += 1;
            masks[count - 1].leaf = RULES[rule].leaf;
        }
        *masks[count - 1].keep.register_mut(RULES[rule].register) = RULES[rule].keep;
        *masks[count - 1].set.register_mut(RULES[rule].register) = RULES[rule].set;
        rule += 1;
    }
    masks
}

/// The bits of each register whose rows say just `show`.
const fn bits_of(show: Show) -> [u32; REGISTERS] {
    let mut masks = [0; REGISTERS];
    let mut register = 0;
    while register < REGISTERS {
        let rows = FEATURES[register].features;
        let mut row = 0;
        while row < rows.len() {
            if same_show(rows[row].show, show) {
                masks[register] |= 1 << rows[row].bit;
            }
            row += 1;
        }
        register += 1;
    }
    masks
}

const fn groups() -> [Group; CONDITIONAL.len()] {
    const EMPTY: Group =
        Group { needs: [Need::Nothing; MOST_NEEDS], emulated: false, bits: [0; REGISTERS] };
    let mut groups = [EMPTY; CONDITIONAL.len()];
    let mut index = 0;
    while index < groups.len() {
        let (Show::With(conditions) | Show::Emulated(conditions)) = CONDITIONAL[index] else {
            panic!("a row without a condition")
        };
        groups[index].emulated = matches!(CONDITIONAL[index], Show::Emulated(_));
        let mut need = 0;
        while need < conditions.len() {
            groups[index].needs[need] = match conditions[need] {
                Condition::Feature(name) => Need::Feature(place(name)),
                other => Need::Other(other),
            };
            need += 1;
        }
        index += 1;
    }
    let mut register = 0;
    while register < REGISTERS {
        let rows = FEATURES[register].features;
        let mut row = 0;
        while row < rows.len() {
            if matches!(rows[row].show, Show::With(_) | Show::Emulated(_)) {
                groups[group_of(rows[row].show)].bits[register] |= 1 << rows[row].bit;
            }
            row += 1;
        }
        register += 1;
    }
    groups
}

/// Where `show` stands in [`CONDITIONAL`].
const fn group_of(show: Show) -> usize {
    let mut index = 0;
    while index < CONDITIONAL.len() {
        if same_show(CONDITIONAL[index], show) {
            return index;
        }
        index += 1;
    }
    panic!("a row's conditions are not in CONDITIONAL")
}

const fn same_show(one: Show, other: Show) -> bool {
    match (one, other) {
        (Show::Passed, Show::Passed) | (Show::Set, Show::Set) => true,
        (Show::With(one), Show::With(other)) | (Show::Emulated(one), Show::Emulated(other)) => {
            let mut index = 0;
            while index < one.len() && index < other.len() {
                if !same_condition(one[index], other[index]) {
                    return false;
                }
                index += 1;
            }
            one.len() == other.len()
        }
        _ => false,
    }
}

const fn same_condition(one: Condition, other: Condition) -> bool {
    use Condition::{Compaction, ExtendedStates, Feature, LocalApic, States, X2Apic};
    match (one, other) {
        (Feature(one), Feature(other)) => same_text(one, other),
        (States(one), States(other)) => one == other,
        (ExtendedStates, ExtendedStates)
        | (Compaction, Compaction)
        | (LocalApic, LocalApic)
        | (X2Apic, X2Apic) => true,
        _ => false,
    }
}

const fn same_text(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut index = 0;
    while index < one.len() && index < other.len() {
        if one[index] != other[index] {
            return false;
        }
        index += 1;
    }
    one.len() == other.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen to fail with two neighbours in `CONDITIONAL` exchanged.
    #[test]
    fn a_group_asks_only_for_features_that_earlier_groups_decide() {
        for (index, group) in GROUPS.iter().enumerate() {
            for need in group.needs {
                let Need::Feature(Place { register, bit }) = need else { continue };
                let decides = |group: &Group| group.bits[register] >> bit & 1 == 1;
                let later = GROUPS[index..].iter().any(decides);
                assert!(!later, "group {index} asks for bit {bit} of register {register}");
            }
        }
    }

    #[test]
    fn each_rule_is_in_the_masks_of_its_leaf() {
        for rule in RULES {
            let mut found = LEAVES.iter().filter(|masks| masks.leaf == rule.leaf);
            let masks = found.next().expect("the leaf");
            assert!(found.next().is_none(), "leaf {:#x} twice", rule.leaf);
            for host in [0, !0, 0x1234_5678] {
                let all = Leaf { eax: host, ebx: host, ecx: host, edx: host };
                let shown = masks.apply(&all).register(rule.register);
                assert_eq!(shown, host & rule.keep | rule.set, "{}", rule.reason);
            }
        }
    }

    #[test]
    fn each_bit_that_can_be_shown_is_in_one_mask() {
        for (index, register) in FEATURES.iter().enumerate() {
            for row in register.features {
                let grouped = GROUPS.iter().filter(|group| group.bits[index] >> row.bit & 1 == 1);
                let constant = [PASSED[index], SET[index]];
                let constant = constant.into_iter().filter(|mask| mask >> row.bit & 1 == 1);
                let wanted = usize::from(!matches!(row.show, Show::Hidden | Show::Mirrors(_)));
                assert_eq!(grouped.count() + constant.count(), wanted, "{}", row.name);
            }
        }
    }
}
