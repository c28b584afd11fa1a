import Foundation

/// One thing measured again and again. `runtime/bench/result.py` in Swift.
public struct Figure: Sendable, Equatable {
  public let median: Double
  /// (90th percentile - 10th percentile) / median
  public let spread: Double
  /// In the order of the rounds, warm-up left out.
  public let values: [Double]

  /// - Parameter values: at least one.
  public init(_ values: [Double]) {
    let (low, middle, high) = (percentile(10, of: values), percentile(50, of: values), percentile(90, of: values))
    median = short(middle)
    spread = short(middle == 0 ? 0 : (high - low) / middle)
    self.values = values.map(short)
  }

  var json: JSONValue {
    ["median": .number(median), "spread": .number(spread), "values": .array(values.map(JSONValue.number))]
  }
}

/// Linear between the two nearest, as NumPy's.
func percentile(_ percent: Double, of values: [Double]) -> Double {
  let sorted = values.sorted()
  let place = percent / 100 * Double(sorted.count - 1)
  let below = Int(place)
  let above = min(below + 1, sorted.count - 1)
  return sorted[below] + (sorted[above] - sorted[below]) * (place - Double(below))
}

/// Six significant digits.
private func short(_ value: Double) -> Double {
  Double(String(format: "%.6g", value)) ?? value
}
