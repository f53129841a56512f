"""The model: found or downloaded, loaded under ZeRO, adapted, quantised, exported."""
