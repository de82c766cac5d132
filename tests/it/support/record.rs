//! A line of the access log, read by the names that its readers rely on.

use serde_json::Value;

/// What the log says of one exchange.
#[derive(Clone, Debug)]
pub(crate) struct Line(Value);

/// What it says of one attempt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Attempt {
    pub(crate) endpoint: String,
    /// A status, or the kind of an error.
    pub(crate) result: String,
    pub(crate) delivery: String,
    /// Its start after the request head, in milliseconds.
    pub(crate) started: f64,
}

impl Line {
    pub(crate) fn parse(text: &str) -> Self {
        let value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text:?}"));
        Self(value)
    }

    /// A text; none if the field is null or not there.
    pub(crate) fn text(&self, field: &str) -> Option<&str> {
        self.0[field].as_str()
    }

    /// A number.
    pub(crate) fn number(&self, field: &str) -> f64 {
        self.0[field].as_f64().unwrap_or_else(|| panic!("{field} is no number in {}", self.0))
    }

    /// Whether the field is a number, and not null.
    pub(crate) fn has_number(&self, field: &str) -> bool {
        self.0[field].is_number()
    }

    pub(crate) fn status(&self) -> u64 {
        self.0["status"].as_u64().unwrap_or_else(|| panic!("no status in {}", self.0))
    }

    /// The name of every field.
    pub(crate) fn fields(&self) -> Vec<&str> {
        self.0.as_object().expect("an object").keys().map(String::as_str).collect()
    }

    pub(crate) fn attempts(&self) -> Vec<Attempt> {
        self.0["attempts"].as_array().expect("a list of attempts").iter().map(Attempt::parse).collect()
    }

    /// A number that the log says of one attempt.
    pub(crate) fn attempt_field(&self, attempt: usize, field: &str) -> u64 {
        let value = &self.0["attempts"][attempt][field];
        value.as_u64().unwrap_or_else(|| panic!("{field} is no number in {}", self.0))
    }

    /// Which attempts were hedges.
    pub(crate) fn hedges(&self) -> Vec<bool> {
        let attempts = self.0["attempts"].as_array().expect("a list of attempts");
        attempts.iter().map(|attempt| attempt["hedge"] == true).collect()
    }

    /// What each attempt ended with.
    pub(crate) fn results(&self) -> Vec<String> {
        self.attempts().into_iter().map(|attempt| attempt.result).collect()
    }
}

impl Attempt {
    fn parse(value: &Value) -> Self {
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let status = value["status"].as_u64().map(|status| status.to_string());
        Self {
            endpoint: text("endpoint"),
            result: status.unwrap_or_else(|| text("error")),
            delivery: text("delivery"),
            started: value["start_us"].as_f64().unwrap_or_else(|| panic!("no start in {value}")) / 1000.0,
        }
    }
}
