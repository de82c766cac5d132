//! Which memory is given up, or refused, when callers want more of an account than there is.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Whose memory it is: an IPv4 address, or an IPv6 network of /64, which is the least that one subscriber has (RFC 6177).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Holder(IpAddr);

impl From<IpAddr> for Holder {
    fn from(client: IpAddr) -> Self {
        Self(match client.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) >> 64 << 64;
                IpAddr::V6(Ipv6Addr::from(network))
            }
            address @ IpAddr::V4(_) => address,
        })
    }
}

/// Why the copy of a request body is given up; a label of `stent_replay_overflow_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenUp {
    /// The body is larger than the route's `body_limit`.
    BodyLimit,
    /// The copy was whole, and much larger than one that wanted in.
    Large,
    /// The account is full, and no other copy has less claim to it.
    Memory,
    /// Its caller holds over a quarter of a full account.
    Share,
    /// It grew more slowly than the others.
    Slow,
}

impl GivenUp {
    /// Every reason.
    pub const ALL: [Self; 5] = [Self::BodyLimit, Self::Large, Self::Memory, Self::Share, Self::Slow];

    /// The word in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::BodyLimit => "body_limit",
            Self::Large => "large",
            Self::Memory => "memory",
            Self::Share => "share",
            Self::Slow => "slow",
        }
    }
}

/// The copy of a request body, as far as its claim to memory is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Whose body it is.
    pub holder: Holder,
    /// Bytes of memory that it holds.
    pub bytes: usize,
    /// When it last grew by an eighth ([`next_step`]).
    pub progress: Instant,
    /// How far the body has come.
    pub stage: Stage,
}

/// How far the copy of a body has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The body still comes in.
    Growing,
    /// It is being sent again, or is about to be: it cannot be given up.
    InUse,
    /// The body has come.
    Whole,
}

/// The size at which a copy of `bytes` has made progress: an eighth more. So a caller that drips into a large copy counts as
/// the slow caller that it is.
pub fn next_step(bytes: usize) -> usize {
    bytes.saturating_add(bytes / 8).saturating_add(1)
}

/// What a copy wants of an account that has no room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Bytes that it wants.
    pub more: usize,
    /// How many of them are not free.
    pub missing: usize,
    /// All bytes of the account.
    pub limit: usize,
}

/// Chooses the copies to give up so that `newcomer`, which holds `newcomer.bytes` already, gets what it demands. Without
/// enough such copies the newcomer itself is the one to go.
///
/// The order:
/// 1. copies that have not grown by an eighth for 3 s, the longest first;
/// 2. growing copies of callers over their share, the slowest first, until the caller is down to it;
/// 3. growing copies that are slower than the newcomer, the slowest first;
/// 4. whole copies that are larger than the newcomer, of callers over their share, the largest first, as in 2;
/// 5. whole copies of at least eight times the newcomer's size, the largest first.
///
/// A newcomer whose caller is over its share takes from no other caller. A share is a quarter of the account, and means nothing
/// while the account is not full: a hospital behind one address may use all of it.
///
/// Evidence: what the account holds now, by the callers' addresses, and when each copy last grew. It is the proxy's own, of all
/// callers. What it costs if it is false: an exchange goes on without a copy, as through a proxy that never retries.
pub fn give_up(copies: &[Claim], newcomer: &Claim, demand: Demand) -> Result<Vec<(usize, GivenUp)>, GivenUp> {
    let Demand { more, missing, limit } = demand;
    let share = limit / SHARES;
    let size = newcomer.bytes.saturating_add(more);
    let mut held: HashMap<Holder, usize> = HashMap::from([(newcomer.holder, size)]);
    for copy in copies {
        *held.entry(copy.holder).or_default() += copy.bytes;
    }
    let is_over = |held: &HashMap<Holder, usize>, holder| held.get(&holder).is_some_and(|held| *held > share);
    let takes_from_own = is_over(&held, newcomer.holder);
    let mut order: Vec<_> = copies
        .iter()
        .enumerate()
        .filter(|(_, copy)| !takes_from_own || copy.holder == newcomer.holder)
        .filter_map(|(index, copy)| {
            let is_over = !takes_from_own && is_over(&held, copy.holder);
            Some((rank(copy, newcomer, size, is_over)?, index))
        })
        .collect();
    order.sort_unstable();
    // Somewhat more than is missing, of what nobody would miss: not every part that comes is to look at all copies.
    let ample = missing.saturating_add(limit / SLACK);
    let (mut freed, mut chosen) = (0, Vec::new());
    for (rank, index) in order {
        let copy = &copies[index];
        let enough = if matches!(rank, Rank::Stalled(_)) { ample } else { missing };
        if freed >= enough {
            break;
        }
        let why = match rank {
            Rank::OverShare(_) | Rank::OverShareWhole(_) if !is_over(&held, copy.holder) => continue,
            Rank::OverShare(_) | Rank::OverShareWhole(_) => GivenUp::Share,
            Rank::Stalled(_) | Rank::Slower(_) => GivenUp::Slow,
            Rank::Large(_) => GivenUp::Large,
        };
        if let Some(held) = held.get_mut(&copy.holder) {
            *held = held.saturating_sub(copy.bytes);
        }
        freed += copy.bytes;
        chosen.push((index, why));
    }
    match (freed >= missing, takes_from_own) {
        (true, _) => Ok(chosen),
        (false, true) => Err(GivenUp::Share),
        (false, false) => Err(GivenUp::Memory),
    }
}

/// What is given up first compares as less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Stalled(Instant),
    OverShare(Instant),
    Slower(Instant),
    OverShareWhole(Reverse<usize>),
    Large(Reverse<usize>),
}

/// None for a copy with a better claim than the newcomer's.
fn rank(copy: &Claim, newcomer: &Claim, size: usize, is_over_share: bool) -> Option<Rank> {
    let Claim { bytes, progress, .. } = *copy;
    match copy.stage {
        _ if bytes == 0 => None,
        Stage::Growing if progress + STALLED <= newcomer.progress => Some(Rank::Stalled(progress)),
        Stage::Growing if is_over_share => Some(Rank::OverShare(progress)),
        Stage::Growing if progress < newcomer.progress => Some(Rank::Slower(progress)),
        Stage::Whole if is_over_share && bytes > size => Some(Rank::OverShareWhole(Reverse(bytes))),
        Stage::Whole if bytes >= size.saturating_mul(MUCH_LARGER) => Some(Rank::Large(Reverse(bytes))),
        Stage::Growing | Stage::InUse | Stage::Whole => None,
    }
}

/// Whether a caller that holds `own` bytes may hold `more`, of an account of `limit` of which `used` are held in all, where
/// nothing can be given up: what is held of an answer is nowhere else before the caller has taken it. The caller may hold a
/// quarter while others hold any, and never more than it leaves free.
///
/// Evidence: what the caller holds, and all callers together. What it costs if it is false: a body flows without being held,
/// as through a proxy that never retries.
pub fn may_hold_firmly(own: usize, more: usize, used: usize, limit: usize) -> bool {
    let wanted = own.saturating_add(more);
    let free = limit.saturating_sub(used.saturating_add(more));
    let is_alone = used <= own;
    wanted <= free && (is_alone || wanted <= limit / SHARES)
}

/// A caller's share is one of so many.
const SHARES: usize = 4;

/// A copy that has not grown by an eighth for so long is as good as given up by its caller.
const STALLED: Duration = Duration::from_secs(3);

/// So much smaller is a newcomer that a whole copy goes for it: one exchange's retry for those of many.
const MUCH_LARGER: usize = 8;

/// The part of the account that stalled copies free beyond what is missing.
const SLACK: usize = 64;

#[cfg(test)]
mod tests;
