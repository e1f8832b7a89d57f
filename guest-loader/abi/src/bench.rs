//! Commands of a benchmark guest, written to [`crate::port::BENCH_COMMAND`].

/// A benchmark command: `op + (arg << 8)` in EAX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The guest's first instructions have run.
    Boot,
    /// A measured section begins; the host may snapshot its counters.
    Begin(u32),
    /// It ends.
    End(u32),
    /// Zap all shadow pages.
    ZapAll {
        /// Whether the host records what the operation itself costs.
        timed: bool,
    },
    /// Limit the number of shadow pages; 0 lifts the limit.
    Limit(u32),
    /// All sections are done.
    Done,
    /// The guest gives up with this code.
    Panic(u32),
    /// The host notes how many shadow pages are in which state.
    Sample,
}

impl Command {
    /// The command's EAX value. `arg` keeps its low 24 bits.
    pub const fn encode(self) -> u32 {
        let (op, arg) = match self {
            Self::Boot => (1, 0),
            Self::Begin(id) => (2, id),
            Self::End(id) => (3, id),
            Self::ZapAll { timed } => (4, timed as u32),
            Self::Limit(pages) => (5, pages),
            Self::Done => (6, 0),
            Self::Panic(code) => (7, code),
            Self::Sample => (8, 0),
        };
        op | arg << 8
    }

    /// The command in an EAX value, or `None` for an unknown one.
    pub const fn decode(eax: u32) -> Option<Self> {
        let arg = eax >> 8;
        Some(match eax & 0xff {
            1 => Self::Boot,
            2 => Self::Begin(arg),
            3 => Self::End(arg),
            4 => Self::ZapAll { timed: arg != 0 },
            5 => Self::Limit(arg),
            6 => Self::Done,
            7 => Self::Panic(arg),
            8 => Self::Sample,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_survives_its_encoding() {
        let commands = [
            Command::Boot,
            Command::Begin(0xabcdef),
            Command::End(1),
            Command::ZapAll { timed: true },
            Command::ZapAll { timed: false },
            Command::Limit(1 << 23),
            Command::Done,
            Command::Panic(42),
            Command::Sample,
        ];
        for command in commands {
            assert_eq!(Command::decode(command.encode()), Some(command));
        }
    }

    #[test]
    fn unknown_operations_are_refused() {
        assert_eq!(Command::decode(0), None);
        assert_eq!(Command::decode(9), None);
        assert_eq!(Command::decode(0xff), None);
    }
}
