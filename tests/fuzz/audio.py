"""`python -m tests.fuzz.audio -runs=20000`"""

from tests.fuzz.loop import fuzz, instrumented

with instrumented("runtime", "soundfile"):
    from tests.fuzz.targets import audio_files, check_audio

if __name__ == "__main__":
    fuzz(check_audio, audio_files().values())
