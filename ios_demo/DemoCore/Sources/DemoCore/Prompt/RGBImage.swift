import Foundation

/// Pixels row by row, three bytes each: red, green, blue.
public struct RGBImage: Sendable, Equatable {
  public let width: Int
  public let height: Int
  public let pixels: [UInt8]

  public init(width: Int, height: Int, pixels: [UInt8]) {
    precondition(pixels.count == width * height * 3, "\(pixels.count) bytes are no \(width) x \(height) pixels")
    self.width = width
    self.height = height
    self.pixels = pixels
  }

  /// Bicubic with antialiasing, as the checkpoint's processor has torchvision do it: a filter as wide as the scale, one
  /// axis after the other, rounded after each.
  public func resized(width: Int, height: Int) -> RGBImage {
    guard (width, height) != (self.width, self.height) else { return self }
    let wide = resampled(to: width, from: self.width, lines: self.height, step: 3, line: self.width * 3)
    let image = RGBImage(width: width, height: self.height, pixels: wide)
    let high = image.resampled(to: height, from: self.height, lines: width, step: width * 3, line: 3)
    return RGBImage(width: width, height: height, pixels: high)
  }

  /// Along one axis: `step` bytes lie between its pixels, `line` between its lines.
  private func resampled(to length: Int, from found: Int, lines: Int, step: Int, line: Int) -> [UInt8] {
    guard length != found else { return pixels }
    let across = step == 3
    var result = [UInt8](repeating: 0, count: lines * length * 3)
    for (target, (start, weights)) in taps(to: length, from: found).enumerated() {
      for at in 0..<lines {
        let base = at * line + start * step
        let out = across ? (at * length + target) * 3 : (target * lines + at) * 3
        for colour in 0..<3 {
          var sum: Float = 0.5
          for (tap, weight) in weights.enumerated() { sum += weight * Float(pixels[base + tap * step + colour]) }
          result[out + colour] = UInt8(min(max(sum, 0), 255))
        }
      }
    }
    return result
  }
}

/// By target pixel, the first source pixel that counts, and the weights from there on, which add up to 1.
private func taps(to length: Int, from found: Int) -> [(start: Int, weights: [Float])] {
  let scale = Double(found) / Double(length)
  let stretch = max(scale, 1)
  return (0..<length).map { target in
    let centre = (Double(target) + 0.5) * scale
    let start = max(Int(centre - 2 * stretch + 0.5), 0)
    let stop = min(Int(centre + 2 * stretch + 0.5), found)
    let weights = (start..<stop).map { cubic((Double($0) - centre + 0.5) / stretch) }
    let total = weights.reduce(0, +)
    return (start, weights.map { Float($0 / total) })
  }
}

/// Keys 1981, equation 4, with a = -0.5.
private func cubic(_ distance: Double) -> Double {
  let x = abs(distance)
  if x < 1 { return (1.5 * x - 2.5) * x * x + 1 }
  if x < 2 { return ((-0.5 * x + 2.5) * x - 4) * x + 2 }
  return 0
}
