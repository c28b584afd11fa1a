// swift-tools-version: 6.0
import PackageDescription

// Foundation alone, so that everything in here is tested on Linux as well.
let package = Package(
  name: "DemoCore",
  platforms: [.iOS(.v18), .macOS(.v15)],
  products: [.library(name: "DemoCore", targets: ["DemoCore"])],
  targets: [
    .target(name: "DemoCore"),
    .executableTarget(name: "drive", dependencies: ["DemoCore"]),
    .testTarget(name: "DemoCoreTests", dependencies: ["DemoCore"]),
  ]
)
