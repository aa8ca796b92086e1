//! What may happen in a schedule, as it is chosen by its seed or written down.

use crate::bucket::Rates;
use crate::random::Random;

/// What may happen in a schedule. A failing one is shrunk by taking of this away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    /// Mounts before the last ones.
    pub rounds: u64,
    /// Operations of each client in each of them.
    pub ops: u64,
    pub clients: usize,
    pub without: Vec<Kind>,
}

/// Kinds of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Refused,
    Lost,
    Unanswered,
    Late,
    Slow,
    Cut,
    Away,
    Kill,
    Power,
    Move,
    /// Another host takes the volume while one has it, or tries to.
    Takeover,
    /// Clocks are apart, and step.
    Clocks,
    /// Somebody with an S3 tool.
    Outside,
    /// Credentials expire, and are renewed.
    Denied,
    /// Of the store not everything is honoured.
    Weak,
    /// The volume keeps its files in segments, for hours.
    Never,
    /// The local log is written anew all the time.
    Short,
    /// Files are uploaded in parts, small ones as well.
    Parts,
    /// Programs write to what is published just then.
    Aim,
    /// Others fill the local disk for a while.
    Full,
    /// The local disk fails calls for a while.
    Broken,
    /// The mount stays when its worker dies, and its successor gets requests a second time.
    Resend,
    /// Bytes of the local state are others after a process has ended.
    Rot,
    /// Files above 8 MiB.
    Large,
    /// Commits go in small steps.
    Steps,
    /// Settling goes in rounds of few keys, so that one is planned while another is on its way.
    Rounds,
    /// A host follows the volume, read-only.
    Follow,
}

impl Kind {
    pub const ALL: &[(Kind, &str)] = &[
        (Kind::Refused, "refused"),
        (Kind::Lost, "lost"),
        (Kind::Unanswered, "unanswered"),
        (Kind::Late, "late"),
        (Kind::Slow, "slow"),
        (Kind::Cut, "cut"),
        (Kind::Away, "away"),
        (Kind::Kill, "kill"),
        (Kind::Power, "power"),
        (Kind::Move, "move"),
        (Kind::Takeover, "takeover"),
        (Kind::Clocks, "clocks"),
        (Kind::Outside, "outside"),
        (Kind::Denied, "denied"),
        (Kind::Weak, "weak"),
        (Kind::Never, "never"),
        (Kind::Short, "short"),
        (Kind::Parts, "parts"),
        (Kind::Aim, "aim"),
        (Kind::Full, "full"),
        (Kind::Broken, "broken"),
        (Kind::Resend, "resend"),
        (Kind::Rot, "rot"),
        (Kind::Large, "large"),
        (Kind::Steps, "steps"),
        (Kind::Rounds, "rounds"),
        (Kind::Follow, "follow"),
    ];
}

impl Plan {
    pub fn of(seed: u64) -> Plan {
        let random = Random::new(seed, 7);
        Plan {
            seed,
            rounds: random.between(1, 6),
            ops: random.between(3, 16),
            clients: random.between(1, 4) as usize,
            without: Vec::new(),
        }
    }

    pub fn has(&self, kind: Kind) -> bool {
        !self.without.contains(&kind)
    }

    /// Whether it is one of volumes by their names.
    pub(super) fn is_by_name(&self) -> bool {
        self.seed % 5 == 3
    }

    pub fn rates(&self, random: &Random) -> Rates {
        let rate = |kind, most: u64| match self.has(kind) && random.chance(400) {
            true => random.below(most),
            false => 0,
        };
        Rates {
            refused: rate(Kind::Refused, 60),
            lost: rate(Kind::Lost, 30),
            unanswered: rate(Kind::Unanswered, 40),
            late: rate(Kind::Late, 20),
            slow: rate(Kind::Slow, 50),
            cut: rate(Kind::Cut, 40),
        }
    }
}
