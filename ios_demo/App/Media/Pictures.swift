import CoreGraphics
import DemoCore
import ImageIO
import UIKit

extension RGBImage {
  /// Sides beyond this are made smaller while decoding: no model takes as many pixels.
  private static let longestSide = 4096

  /// Of a file's bytes, turned upright where it says how, without transparency.
  ///
  /// - Throws: `UserError` if there is no picture in there.
  init(data: Data) throws {
    let options: [CFString: Any] = [
      kCGImageSourceCreateThumbnailFromImageAlways: true, kCGImageSourceCreateThumbnailWithTransform: true,
      kCGImageSourceThumbnailMaxPixelSize: Self.longestSide,
    ]
    guard let source = CGImageSourceCreateWithData(data as CFData, nil),
      let image = CGImageSourceCreateThumbnailAtIndex(source, 0, options as CFDictionary)
    else { throw UserError("this is no readable picture: use PNG, JPEG or HEIC") }
    try self.init(image)
  }

  /// - Throws: `UserError` if there is no memory for it.
  init(_ image: CGImage) throws {
    let (width, height) = (image.width, image.height)
    var bytes = [UInt8](repeating: 255, count: width * height * 4)
    let drawn = bytes.withUnsafeMutableBytes { buffer in
      let context = CGContext(
        data: buffer.baseAddress, width: width, height: height, bitsPerComponent: 8, bytesPerRow: width * 4,
        space: CGColorSpace(name: CGColorSpace.sRGB) ?? CGColorSpaceCreateDeviceRGB(),
        bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)
      context?.draw(image, in: CGRect(x: 0, y: 0, width: width, height: height))
      return context != nil
    }
    guard drawn else { throw UserError("the picture is too large for this device's memory") }
    let pixels = (0..<width * height * 4).lazy.filter { $0 % 4 != 3 }.map { bytes[$0] }
    self.init(width: width, height: height, pixels: Array(pixels))
  }
}
