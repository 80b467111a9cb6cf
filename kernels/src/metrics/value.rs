//! The value of a metric: a finite number, or none and why.

use serde::de::Error as _;
use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A finite number or the reason why there is none. On the wire `0.93`, or
/// `{"value": null, "reason": "only the negative class is present"}`; never NaN or infinity. In
/// MessagePack structs must be maps with field names, as they are on our bus.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricValue(Result<f64, String>);

impl MetricValue {
    /// A number; one that is not finite becomes undefined.
    pub fn new(value: f64) -> Self {
        if value.is_finite() {
            Self(Ok(value))
        } else if value.is_nan() {
            Self::undefined("the result is not a number")
        } else {
            Self::undefined("the result overflows")
        }
    }

    /// No number, because of `reason`.
    pub fn undefined(reason: impl Into<String>) -> Self {
        Self(Err(reason.into()))
    }

    /// The finite number, if there is one.
    pub fn value(&self) -> Option<f64> {
        self.0.as_ref().ok().copied()
    }

    /// Why there is no number, if there is none.
    pub fn reason(&self) -> Option<&str> {
        self.0.as_ref().err().map(String::as_str)
    }
}

impl From<Result<f64, String>> for MetricValue {
    fn from(result: Result<f64, String>) -> Self {
        result.map_or_else(Self::undefined, Self::new)
    }
}

impl std::fmt::Display for MetricValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            // The precision asked for, if any: `{:.4}`.
            Ok(value) => std::fmt::Display::fmt(value, f),
            Err(reason) => write!(f, "undefined ({reason})"),
        }
    }
}

impl Serialize for MetricValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Ok(value) => serializer.serialize_f64(*value),
            Err(reason) => {
                let mut fields = serializer.serialize_struct("MetricValue", 2)?;
                fields.serialize_field("value", &None::<f64>)?;
                fields.serialize_field("reason", reason)?;
                fields.end()
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Wire {
    Number(f64),
    Fields { value: Option<f64>, reason: Option<String> },
}

impl<'de> Deserialize<'de> for MetricValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Wire::deserialize(deserializer)? {
            Wire::Number(value) | Wire::Fields { value: Some(value), .. } => Ok(Self::new(value)),
            Wire::Fields { value: None, reason: Some(reason) } => Ok(Self::undefined(reason)),
            Wire::Fields { value: None, reason: None } => {
                Err(D::Error::custom("a metric without a value needs a reason"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_a_number_on_the_wire() {
        assert_eq!(serde_json::to_string(&MetricValue::new(0.25)).unwrap(), "0.25");
        assert_eq!(serde_json::from_str::<MetricValue>("1").unwrap(), MetricValue::new(1.0));
    }

    #[test]
    fn an_undefined_number_is_null_with_a_reason() {
        let json = serde_json::to_string(&MetricValue::undefined("one class")).unwrap();
        assert_eq!(json, r#"{"value":null,"reason":"one class"}"#);
        let back: MetricValue = serde_json::from_str(&json).unwrap();
        assert_eq!((back.value(), back.reason()), (None, Some("one class")));
    }

    #[test]
    fn what_is_not_finite_is_undefined() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(MetricValue::new(value).reason().is_some());
            assert!(!serde_json::to_string(&MetricValue::new(value)).unwrap().contains("NaN"));
        }
    }

    #[test]
    fn a_null_without_a_reason_is_refused() {
        assert!(serde_json::from_str::<MetricValue>(r#"{"value":null}"#).is_err());
        assert!(serde_json::from_str::<MetricValue>(r#""0.5""#).is_err());
    }

    #[test]
    fn it_prints_for_people() {
        assert_eq!(format!("{:.2}", MetricValue::new(0.123)), "0.12");
        assert_eq!(MetricValue::undefined("no samples").to_string(), "undefined (no samples)");
    }
}
