//! The statuses of gRPC, where an answer is one without a body: then the status stands in its head.

use http::{HeaderMap, HeaderName, StatusCode};

/// A status of gRPC, 0 to 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcStatus(u8);

impl GrpcStatus {
    /// How many there are.
    pub const COUNT: usize = NAMES.len();

    /// The status that a response head without a body carries; none if it is not one of gRPC.
    pub fn of_head(status: StatusCode, headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(GRPC_STATUS)?.to_str().ok()?;
        (status == StatusCode::OK).then(|| Self::from_number(value.parse().ok()?)).flatten()
    }

    /// The status of this number.
    pub fn from_number(number: u8) -> Option<Self> {
        (usize::from(number) < NAMES.len()).then_some(Self(number))
    }

    /// The status that the configuration calls `word`: its name, in snake case.
    pub fn from_name(word: &str) -> Option<Self> {
        let place = NAMES.iter().position(|(name, _)| *name == word)?;
        u8::try_from(place).ok().map(Self)
    }

    /// Its number.
    pub fn number(self) -> u8 {
        self.0
    }

    /// Its name, in snake case.
    pub fn name(self) -> &'static str {
        NAMES[usize::from(self.0)].0
    }

    /// The word in metrics and for `stent explain`: its number is what gRPC's own tools count by.
    pub fn label(self) -> &'static str {
        NAMES[usize::from(self.0)].1
    }

    /// The status that [`GrpcStatus::label`] gives as `word`.
    pub fn from_label(word: &str) -> Option<Self> {
        Self::all().find(|status| status.label() == word)
    }

    /// Whether the call succeeded.
    pub fn is_ok(self) -> bool {
        self.0 == 0
    }

    /// Every status, by number.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..).map_while(Self::from_number)
    }
}

/// A set of [`GrpcStatus`]es.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrpcStatusSet(u32);

impl GrpcStatusSet {
    /// Whether it holds `status`.
    pub fn contains(self, status: GrpcStatus) -> bool {
        self.0 & (1 << status.0) != 0
    }

    /// Whether it holds nothing.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its statuses, by number.
    pub fn iter(self) -> impl Iterator<Item = GrpcStatus> {
        GrpcStatus::all().filter(move |status| self.contains(*status))
    }
}

impl FromIterator<GrpcStatus> for GrpcStatusSet {
    fn from_iter<I: IntoIterator<Item = GrpcStatus>>(statuses: I) -> Self {
        Self(statuses.into_iter().fold(0, |set, status| set | 1 << status.0))
    }
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Names and labels, by number.
const NAMES: [(&str, &str); 17] = [
    ("ok", "grpc-0"),
    ("cancelled", "grpc-1"),
    ("unknown", "grpc-2"),
    ("invalid_argument", "grpc-3"),
    ("deadline_exceeded", "grpc-4"),
    ("not_found", "grpc-5"),
    ("already_exists", "grpc-6"),
    ("permission_denied", "grpc-7"),
    ("resource_exhausted", "grpc-8"),
    ("failed_precondition", "grpc-9"),
    ("aborted", "grpc-10"),
    ("out_of_range", "grpc-11"),
    ("unimplemented", "grpc-12"),
    ("internal", "grpc-13"),
    ("unavailable", "grpc-14"),
    ("data_loss", "grpc-15"),
    ("unauthenticated", "grpc-16"),
];

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn names_numbers_and_labels_agree() {
        assert_eq!(GrpcStatus::all().count(), GrpcStatus::COUNT);
        for status in GrpcStatus::all() {
            assert_eq!(GrpcStatus::from_name(status.name()), Some(status));
            assert_eq!(GrpcStatus::from_label(status.label()), Some(status));
            assert_eq!(status.label(), format!("grpc-{}", status.number()));
        }
        assert_eq!(GrpcStatus::from_name("unavailable").map(GrpcStatus::number), Some(14));
        assert_eq!(GrpcStatus::from_number(17), None);
    }

    #[test]
    fn only_a_good_head_with_a_known_number_carries_a_status() {
        let head = |status, value: &'static str| {
            let headers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static(value))]);
            GrpcStatus::of_head(status, &headers).map(GrpcStatus::number)
        };
        assert_eq!(head(StatusCode::OK, "14"), Some(14));
        assert_eq!(head(StatusCode::OK, "17"), None);
        assert_eq!(head(StatusCode::OK, "-1"), None);
        assert_eq!(head(StatusCode::OK, "unavailable"), None);
        assert_eq!(head(StatusCode::BAD_GATEWAY, "14"), None);
        assert_eq!(GrpcStatus::of_head(StatusCode::OK, &HeaderMap::new()), None);
    }

    #[test]
    fn a_set_holds_what_was_put_in() {
        let set: GrpcStatusSet =
            ["unavailable", "aborted"].into_iter().filter_map(GrpcStatus::from_name).collect();
        assert_eq!(set.iter().map(GrpcStatus::number).collect::<Vec<_>>(), [10, 14]);
        assert!(!set.is_empty() && GrpcStatusSet::default().is_empty());
    }
}
