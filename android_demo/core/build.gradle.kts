plugins {
    alias(libs.plugins.kotlin.jvm)
    alias(libs.plugins.kotlin.serialization)
}

kotlin {
    jvmToolchain(17)
}

dependencies {
    implementation(libs.kotlinx.serialization.json)
    testImplementation(libs.junit)
}

// python -m tests.vectors build/android/vectors writes what the tests compare with.
tasks.test {
    systemProperty("vectors", rootDir.resolve("../build/android/vectors").path)
    systemProperty("repository", rootDir.resolve("..").path)
}
